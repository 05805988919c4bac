"""The engine's own forward pass against transformers', for every model type that can be tuned."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from modalities.text.config import LORA_TARGETS
from serving.attention import Attention, Span
from serving.llama import Llama
from serving.memory import Memory
from serving.room import Rooms, Shape

COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
QUIRKS: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "attention_bias": True,
    },
    "mistral": {"sliding_window": 7},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "smollm3": {"no_rope_layers": [1, 0, 1, 1], "tie_word_embeddings": True},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.5,
        "logits_scaling": 4.0,
    },
}


def model(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(COMMON | QUIRKS.get(kind, {})))
    made = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)
    for name, weight in made.named_parameters():
        weight.normal_(std=0.3)  # norms and biases too: as they are drawn, they would hide a mistake
        if "norm" in name:
            weight.add_(1)
    return made


def run(made: Llama, ids: list[int], pieces: list[int]) -> torch.Tensor:
    """Logits of a prompt that is read in pieces."""
    shape = Shape(len(made.layers), made.kv_heads, made.head_width, 32, torch.float32, made.device)
    seat = Rooms(shape, Memory(10**9)).enter(len(ids))
    assert seat is not None
    found, start = [], 0
    for piece in pieces:
        span = Span(seat, start, start + piece)
        attend = Attention([], [span], made.scale, made.cap)
        positions = torch.arange(span.start, span.stop)
        hidden = made.embed(torch.tensor(ids[span.start : span.stop]))
        found.append(made.logits(made.run(hidden, positions, range(len(made.layers)), attend, None)))
        start += piece
    return torch.cat(found)


@pytest.mark.parametrize("kind", sorted(LORA_TARGETS))
def test_logits_are_those_of_transformers(kind: str) -> None:
    ids = torch.randint(1, 97, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    theirs = model(kind)
    expected = theirs(input_ids=torch.tensor([ids])).logits[0]
    assert expected.std() > 0.1
    ours = Llama(theirs, "fp32", torch.float32, 128)
    torch.testing.assert_close(run(ours, ids, [40]), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(ours, ids, [3, 17, 1, 1, 18]), expected, rtol=1e-4, atol=1e-4)
