"""Greedy decoding of many clips at once: openai-whisper's rules on its own layers, with keys and values kept.

The same as `whisper.decoding.DecodingTask` without timestamps at temperature 0, but that the cross attention's keys and
values are computed once, that no hooks are put into the model, so that several threads may decode with it, and that a
clip leaves the batch when it has ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Heard:
    """What was decoded from one clip.

    Attributes:
        tokens: Of the text alone.
        mean_logprob: Natural log probability a token, the end token counted.
        no_speech: Probability that nobody speaks, by the model's own token for it.
        ended: Whether the end token came before the limit.
    """

    tokens: tuple[int, ...]
    mean_logprob: float
    no_speech: float
    ended: bool


@dataclass
class _Layer:
    """One decoder layer's keys and values, `[clips, heads, tokens or positions, head width]`."""

    keys: Tensor
    values: Tensor
    cross_keys: Tensor
    cross_values: Tensor

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.cross_keys, self.cross_values = self.cross_keys[rows], self.cross_values[rows]


class _Decoder:
    """openai-whisper's decoder, one call a step. The adapters within its layers take part."""

    def __init__(self, model: Any, states: Tensor, limit: int) -> None:
        self._decoder, self._heads, self._at = model.decoder, model.dims.n_text_head, 0
        self._layers = [self._layer(block, states, limit) for block in self._decoder.blocks]

    def _layer(self, block: Any, states: Tensor, limit: int) -> _Layer:
        cross_keys, cross_values = (
            self._split(part(states)) for part in (block.cross_attn.key, block.cross_attn.value)
        )
        empty = cross_keys.new_empty(*cross_keys.shape[:2], limit, cross_keys.shape[-1])
        return _Layer(empty, torch.empty_like(empty), cross_keys, cross_values)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the clips."""
        for layer in self._layers:
            layer.keep(rows)

    def step(self, tokens: Tensor, positions: Sequence[int]) -> Tensor:
        """Read the next tokens `[clips, n]`; logits `[clips, positions, vocabulary]` in float32 at some of them."""
        decoder, stop = self._decoder, self._at + tokens.shape[1]
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[self._at : stop]
        x = x.to(self._layers[0].cross_keys.dtype)
        for block, layer in zip(decoder.blocks, self._layers, strict=True):
            x = x + self._attend(block.attn, block.attn_ln(x), layer, stop)
            crossed = self._split(block.cross_attn.query(block.cross_attn_ln(x)))
            crossed = scaled_dot_product_attention(crossed, layer.cross_keys, layer.cross_values)
            x = x + block.cross_attn.out(_join(crossed))
            x = x + block.mlp(block.mlp_ln(x))
        self._at = stop
        x = decoder.ln(x[:, list(positions)])
        logits: Tensor = (x @ decoder.token_embedding.weight.to(x.dtype).T).float()
        return logits

    def _attend(self, attention: Any, x: Tensor, layer: _Layer, stop: int) -> Any:
        layer.keys[:, :, self._at : stop] = self._split(attention.key(x))
        layer.values[:, :, self._at : stop] = self._split(attention.value(x))
        query = self._split(attention.query(x))
        # Several tokens are read at once only at the start, where a plain causal mask is right.
        causal = x.shape[1] > 1
        found = scaled_dot_product_attention(
            query, layer.keys[:, :, :stop], layer.values[:, :, :stop], is_causal=causal
        )
        return attention.out(_join(found))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: Any,
    states: Tensor,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None = None,
    kept: Callable[[Tensor], None] = lambda _: None,
) -> list[Heard]:
    """Decode clips together, each to its most probable token at every step.

    Args:
        model: openai-whisper's model.
        tokenizer: Its tokenizer.
        states: The encoder's, `[clips, positions, width]`.
        prompts: For each clip the tokens that come before its text, all of one length, see `prompt_of`.
        max_tokens: Of the text; default and most: half of the model's context.
        kept: Told the places, among the clips still decoded, of those that are decoded on: rows with layers of their
            own must leave with their clips.

    Returns:
        In the order of the clips.
    """
    if not len(states):
        return []
    most = model.dims.n_text_ctx // 2
    most = most if max_tokens is None else min(most, max_tokens)
    prompt = torch.tensor([*map(list, prompts)], device=states.device)
    length, sot = prompt.shape[1], prompts[0].index(tokenizer.sot)
    most = min(most, model.dims.n_text_ctx - length + 1)
    decoder = _Decoder(model, states, length + most)
    at_sot, logits = decoder.step(prompt, [sot, -1]).unbind(1)
    no_speech = at_sot.softmax(-1)[:, tokenizer.no_speech].tolist()
    blank, always = _suppressed(tokenizer)
    logits[:, blank] = -torch.inf
    running = torch.arange(len(states))
    texts: list[list[int]] = [[] for _ in prompts]
    total, ended = [0.0] * len(prompts), [False] * len(prompts)
    for step in range(most):
        logits[:, always] = -torch.inf
        best = logits.argmax(-1)
        probabilities = logits.log_softmax(-1).gather(1, best[:, None])[:, 0].tolist()
        for row, token, probability in zip(running.tolist(), best.tolist(), probabilities, strict=True):
            total[row] += probability
            ended[row] = token == tokenizer.eot
            texts[row] += [] if ended[row] else [token]
        going = (best != tokenizer.eot).nonzero()[:, 0]
        if not len(going) or step == most - 1:
            break
        if len(going) < len(best):
            decoder.keep(going)
            kept(going)
            running, best = running[going.cpu()], best[going]
        logits = decoder.step(best[:, None], [-1])[:, 0]
    return [
        Heard(tuple(text), logprob / (len(text) + 1), speechless, end)
        for text, logprob, speechless, end in zip(texts, total, no_speech, ended, strict=True)
    ]


def prompt_of(tokenizer: Any, language: str | None = None, task: str = "transcribe", before: str = "") -> list[int]:
    """The tokens before a text without timestamps, as openai-whisper writes them.

    Args:
        tokenizer: openai-whisper's.
        language: Its code, such as `de`; ignored where the model knows English alone.
        task: `transcribe`, or `translate` to English.
        before: What was said before, or how names are spelt.
    """
    start = list(tokenizer.sot_sequence)
    if tokenizer.language is not None:
        start = [tokenizer.sot, tokenizer.to_language_token(language or tokenizer.language)]
        start.append(tokenizer.transcribe if task == "transcribe" else tokenizer.translate)
    earlier = tokenizer.encode(" " + before.strip())[-223:] if before.strip() else []
    return [*([tokenizer.sot_prev, *earlier] if earlier else []), *start, tokenizer.no_timestamps]


def _suppressed(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens that no text begins with, and those that none has: signs of what is no speech, and commands."""
    commands = (tokenizer.transcribe, tokenizer.translate, tokenizer.sot, tokenizer.sot_prev, tokenizer.sot_lm)
    return [*tokenizer.encode(" "), tokenizer.eot], [*tokenizer.non_speech_tokens, *commands, tokenizer.no_speech]
