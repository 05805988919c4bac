"""What is known of a text model without loading it: layers, adapter targets, sizes. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from moatelier.contracts import Contract
from moatelier.errors import ModelUnavailable
from modalities.base import Modality

TEXT = Modality(
    name="text",
    kinds=("classification", "chat", "preference", "thumbs"),
    metrics=("accuracy", "macro_f1", "exact_match", "preference_accuracy"),
    methods=(
        "lora",
        "alora",
        "rslora",
        "dora",
        "pissa",
        "adalora",
        "vera",
        "ia3",
        "lora_fa",
        "dylora",
        "qlora",
        "full",
        "hft",
        "dpo",
        "orpo",
        "kto",
    ),
    suffixes=(".csv", ".jsonl"),
    max_tokens=1024,
    content="messages",
    data="modalities.text.data",
    curating="modalities.text.curating",
    model="modalities.text.model:load_base",
)

WHOLE = "whole_weights"
"""The field of an adapter's `adapter_config.json` that says that its tensors stand in place of the base's."""
_LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    kind: _LLAMA_LIKE for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3", "granite")
}
"""Model type -> names of all linear layers within a block. Heads are never among them: they may be tied."""


class TextConfig(Contract):
    """The shape of a Llama-like model, as its `config.json` says."""

    model_type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    context: int

    @property
    def first_layer_default(self) -> int:
        """The first layer that an adapter changes by default."""
        return top_third(self.layers)


def top_third(n_layers: int) -> int:
    """Index of the first layer of the top third (rounded up): 30 layers -> 20, 6 -> 4."""
    return n_layers - -(-n_layers // 3)


def read_config(folder: Path) -> TextConfig:
    """Read a model folder's `config.json`.

    Raises:
        ModelUnavailable: There is none, or it is not of a Llama-like model.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return TextConfig(
            model_type=raw["model_type"],
            layers=raw["num_hidden_layers"],
            hidden=raw["hidden_size"],
            intermediate=raw["intermediate_size"],
            heads=raw["num_attention_heads"],
            kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            vocab=raw["vocab_size"],
            context=raw["max_position_embeddings"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(
            f"This is not a folder of a Llama-like text model: {error!r}.",
            where=str(folder / "config.json"),
            remedy="Use a model of one of the types " + ", ".join(LORA_TARGETS) + ".",
        ) from error


def layer_count(folder: Path) -> int:
    """How many layers the model in this folder has."""
    return read_config(folder).layers


def lora_targets(model_type: str) -> tuple[str, ...]:
    """The linear layers that `all-linear` adapts in a model of this type.

    Raises:
        ModelUnavailable: The type is not known to work.
    """
    if model_type not in LORA_TARGETS:
        raise ModelUnavailable(
            f"Models of the type {model_type!r} cannot be tuned yet.",
            where="config.json: model_type",
            remedy="Use one of the types " + ", ".join(LORA_TARGETS) + ".",
        )
    return LORA_TARGETS[model_type]
