"""The forward pass of Llama-like models, over tokens of many rows side by side: no padding, no cache of its own.

A Hugging Face model gives the weights and its quirks; they are rearranged for decoding (query, key and value in one
product, gate and up in another) and put in the deployment's precision. What attends to what is the caller's: `Attend`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from serving.linear import Dense, Linear, ServingPrecision, pack

SITES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Fused product -> the modules it is made of, in the order of its outputs."""


class Attend(Protocol):
    """Attention of one pass: takes in the new keys and values and gives what the new tokens see."""

    def __call__(
        self, layer: int, window: int | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """`[tokens, heads, width]` for q of that shape and k, v `[tokens, kv_heads, width]`."""
        ...


class Delta(Protocol):
    """Adapters of one pass."""

    def add(self, layer: int, site: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The product y `[tokens, out]`, the base's product of x, with every token's own adapter added."""
        ...


@dataclass(frozen=True)
class Norm:
    """Root mean square norm (arXiv 1910.07467)."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """X `[..., width]`, normed over its last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True)
class Layer:
    """One block."""

    before_attention: Norm
    linears: dict[str, Linear]
    before_mlp: Norm
    q_norm: Norm | None
    k_norm: Norm | None
    after_attention: Norm | None
    after_mlp: Norm | None
    rotary: bool
    window: int | None
    """A token sees so many of the last tokens, itself among them; None is all."""


@dataclass(frozen=True)
class Ends:
    """What stands before the first block and after the last."""

    table: torch.Tensor
    """Embeddings `[vocabulary, width]`."""
    norm: Norm
    head: Linear

    @property
    def bytes(self) -> int:
        """What they take; an embedding that is also the head counts once where it is one tensor."""
        tied = isinstance(self.head, Dense) and self.head.weight.data_ptr() == self.table.data_ptr()
        return self.head.bytes + (0 if tied else self.table.nbytes)


@dataclass(frozen=True)
class Own:
    """What an adapter of whole weights has in place of the base's.

    Attributes:
        layers: Its blocks, by number.
        ends: None where they are the base's.
    """

    layers: Mapping[int, Layer]
    ends: Ends | None

    @property
    def bytes(self) -> int:
        """What it takes."""
        linears = [linear for layer in self.layers.values() for linear in layer.linears.values()]
        return sum(linear.bytes for linear in linears) + (self.ends.bytes if self.ends else 0)


class Llama:
    """A causal model's blocks, embedding and head.

    Args:
        model: A Hugging Face model of a type in `modalities.text.config.LORA_TARGETS`; its modules are taken apart
            as they are converted, so that memory holds one copy. It cannot be used afterwards.
        precision: Of the linear layers.
        dtype: What everything else is computed in.
        context: Positions that may be asked for.
        wide: Whether integer layers keep a copy in bfloat16, for passes over many tokens.
    """

    def __init__(
        self, model: Any, precision: ServingPrecision, dtype: torch.dtype, context: int, wide: bool = False
    ) -> None:
        config, decoder = model.config, model.get_decoder()
        self.dtype, self.device, self._wide = dtype, torch.device(model.device), wide
        self._config, self._precision, self._block_type = config, precision, type(decoder.layers[0])
        attention = decoder.layers[0].self_attn
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_width: int = attention.head_dim
        self.scale: float = attention.scaling
        self.cap: float | None = getattr(config, "attn_logit_softcapping", None)
        self._residual = float(getattr(config, "residual_multiplier", 1.0))
        self._logits_scale = float(getattr(config, "logits_scaling", 1.0))
        self._logits_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self._activation = decoder.layers[0].mlp.act_fn
        self._offset = 1.0 if "Gemma" in type(decoder.norm).__name__ else 0.0
        self._rotations(decoder.rotary_emb, context)
        table = model.get_input_embeddings()
        self._embedding_scale = self._find_embedding_scale(config, table)
        head = model.get_output_embeddings()
        self.tied = head.weight is table.weight
        """Whether the head is the embeddings."""
        self._norm_eps = _eps(decoder.norm)
        self._ends = Ends(
            table.weight.detach().to(dtype),
            self._make_norm(decoder.norm),
            pack(self._cast(head.weight.detach()), _bias(head, dtype), precision),
        )
        self.layers: list[Layer] = []
        for number, block in enumerate(decoder.layers):
            self.layers.append(self._layer(block, number))
            decoder.layers[number] = torch.nn.Identity()

    @property
    def bytes(self) -> int:
        """What the weights take."""
        linears = [linear for layer in self.layers for linear in layer.linears.values()]
        return sum(linear.bytes for linear in linears) + self._ends.bytes

    def weights_at(self, layer: int, site: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight `[out, in]` and bias `[out]` of a product as they are multiplied and added."""
        linear = self.layers[layer].linears[site]
        return linear.weight, linear.bias

    @property
    def table_shape(self) -> torch.Size:
        """Of the embeddings, `[vocabulary, width]`."""
        return self._ends.table.shape

    def block(self, number: int, tensors: Mapping[str, torch.Tensor]) -> Layer:
        """A block like this model's, of tensors named as within a Hugging Face block.

        Raises:
            RuntimeError: Tensors are missing, unexpected or of another shape.
        """
        with torch.device("meta"):
            block = self._block_type(self._config, number)
        block.load_state_dict(tensors, assign=True)
        return self._layer(block, number)

    def ends(self, table: torch.Tensor, norm: torch.Tensor, head: torch.Tensor | None) -> Ends:
        """Embeddings, last norm and head of other weights; without a head the embeddings are it."""
        table = table.to(self.dtype)
        packed = pack(table if head is None else self._cast(head), None, self._precision)
        return Ends(table, self._norm_of(norm, self._norm_eps), packed)

    def embed(self, ids: torch.Tensor, own: Own | None = None) -> torch.Tensor:
        """Hidden states `[tokens, width]` before the first layer."""
        hidden: torch.Tensor = (own.ends if own and own.ends else self._ends).table[ids]
        return hidden if self._embedding_scale == 1 else hidden.mul(self._embedding_scale)

    def run(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        layers: Sequence[int],
        attend: Attend,
        adapters: Delta | None,
        own: Own | None = None,
    ) -> torch.Tensor:
        """Hidden states `[tokens, width]` after these layers, of which some may be an adapter's own."""
        cos, sin = self._cos[positions], self._sin[positions]
        for number in layers:
            layer = own.layers.get(number, self.layers[number]) if own else self.layers[number]
            x = layer.before_attention(hidden)
            hidden = self._added(hidden, self._attention(number, layer, x, cos, sin, attend, adapters))
            x = layer.before_mlp(hidden)
            gate, up = _linear(layer, number, "gate_up", x, adapters).chunk(2, dim=-1)
            x = _linear(layer, number, "down", self._activation(gate) * up, adapters)
            hidden = self._added(hidden, layer.after_mlp(x) if layer.after_mlp else x)
        return hidden

    def logits(self, hidden: torch.Tensor, own: Own | None = None) -> torch.Tensor:
        """Logits `[tokens, vocabulary]` in float32 of hidden states after the last layer."""
        ends = own.ends if own and own.ends else self._ends
        logits: torch.Tensor = ends.head(ends.norm(hidden)).float()
        if self._logits_scale != 1:
            logits = logits.div(self._logits_scale)
        return logits if self._logits_cap is None else torch.tanh(logits.div(self._logits_cap)).mul(self._logits_cap)

    def _attention(
        self,
        number: int,
        layer: Layer,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: Attend,
        adapters: Delta | None,
    ) -> torch.Tensor:
        turned = self.heads + self.kv_heads
        qkv = _linear(layer, number, "qkv", x, adapters).view(len(x), -1, self.head_width)
        qk, v = qkv[:, :turned], qkv[:, turned:]
        if layer.q_norm and layer.k_norm:
            qk = torch.cat([layer.q_norm(qk[:, : self.heads]), layer.k_norm(qk[:, self.heads :])], dim=1)
        if layer.rotary:
            first, second = qk.chunk(2, dim=-1)
            qk = qk * cos + torch.cat([-second, first], dim=-1) * sin
        seen = attend(number, layer.window, qk[:, : self.heads], qk[:, self.heads :], v)
        x = _linear(layer, number, "o", seen.flatten(1), adapters)
        return layer.after_attention(x) if layer.after_attention else x

    def _added(self, hidden: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        return hidden + change if self._residual == 1 else hidden + change * self._residual

    def _layer(self, block: Any, number: int) -> Layer:
        attention, config = block.self_attn, self._config
        four_norms = hasattr(block, "pre_feedforward_layernorm")
        between = block.pre_feedforward_layernorm if four_norms else block.post_attention_layernorm
        no_rope = getattr(config, "no_rope_layers", None)  # smollm3's list says 1 where there *is* a rotation
        return Layer(
            before_attention=self._make_norm(block.input_layernorm),
            linears={site: self._fused(block, names) for site, names in SITES.items()},
            before_mlp=self._make_norm(between),
            q_norm=self._make_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
            k_norm=self._make_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
            after_attention=self._make_norm(block.post_attention_layernorm) if four_norms else None,
            after_mlp=self._make_norm(block.post_feedforward_layernorm) if four_norms else None,
            rotary=not no_rope or bool(no_rope[number]),
            window=_window(attention, config, number),
        )

    def _fused(self, block: Any, names: Sequence[str]) -> Linear:
        modules = [block.get_submodule(name) for name in names]
        weight = torch.cat([module.weight.detach() for module in modules])
        biases = [_bias(module, self.dtype) for module in modules]
        known = [
            torch.zeros(len(m.weight), dtype=self.dtype, device=self.device) if b is None else b
            for m, b in zip(modules, biases, strict=True)
        ]
        bias = None if all(bias is None for bias in biases) else torch.cat(known)
        return pack(self._cast(weight), bias, self._precision, self._wide)

    def _cast(self, weight: torch.Tensor) -> torch.Tensor:
        return weight if self._precision in ("int8", "int4") else weight.to(self.dtype)

    def _make_norm(self, norm: Any) -> Norm:
        return self._norm_of(norm.weight.detach(), _eps(norm))

    def _norm_of(self, weight: torch.Tensor, eps: float) -> Norm:
        return Norm((weight.float() + self._offset).to(self.dtype), eps)

    def _rotations(self, rotary: Any, context: int) -> None:
        like = torch.empty(1, dtype=torch.float32, device=self.device)
        cos, sin = rotary(like, torch.arange(context, device=self.device)[None])
        self._cos, self._sin = cos[0, :, None].to(self.dtype), sin[0, :, None].to(self.dtype)

    @staticmethod
    def _find_embedding_scale(config: Any, table: Any) -> float:
        scale = getattr(table, "embed_scale", None)
        if scale is None and config.model_type.startswith("gemma"):
            scale = config.hidden_size**0.5
        return float(getattr(config, "embedding_multiplier", 1.0) if scale is None else scale)


def _linear(layer: Layer, number: int, site: str, x: torch.Tensor, adapters: Delta | None) -> torch.Tensor:
    y = layer.linears[site](x)
    return adapters.add(number, site, x, y) if adapters else y


def _eps(norm: Any) -> float:
    return float(getattr(norm, "variance_epsilon", None) or norm.eps)


def _bias(module: Any, dtype: torch.dtype) -> torch.Tensor | None:
    return None if module.bias is None else module.bias.detach().to(dtype)


def _window(attention: Any, config: Any, number: int) -> int | None:
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[number] != "sliding_attention":
        return None
    return getattr(attention, "sliding_window", None) or (
        getattr(config, "sliding_window", None) if not kinds else None
    )
