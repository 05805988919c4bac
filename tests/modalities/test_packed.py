"""Packed runs against the model's own forward pass (guards against leaks between rows: trl#1230, trl#3067)."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from moatelier.errors import InvalidRequest
from modalities.text import packed as packing
from modalities.text.packed import check_packed, common_beginning, layout, run_layers

ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 30], [5, 6, 7, 8, 40, 41, 42, 43, 44], [5, 6, 7, 8, 9]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


def packed(model: Any, rows: list[list[int]], prefix: int, first: int = 0) -> list[torch.Tensor]:
    """Final hidden states of each row's own tokens."""
    ids = rows[0][:prefix] + [token for row in rows for token in row[prefix:]]
    places = layout([len(row) - prefix for row in rows], prefix)
    hidden = model.model.embed_tokens(torch.tensor([ids]))
    for start in (0, first):
        end = first if start == 0 and first else 6
        hidden = run_layers(model.model, hidden, places, start, end)
        if end == 6:
            break
    normed = model.model.norm(hidden)[0]
    ends = [*places.starts[1:], len(ids)]
    return [normed[start:end] for start, end in zip(places.starts, ends, strict=True)]


@pytest.mark.parametrize("short", [512, 0])
@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("first", [0, 4])
def test_packed_equals_unpacked_token_by_token(
    model: Any, prefix: int, first: int, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_SHORT", short)  # attention spelt out, or torch's own
    with torch.inference_mode():
        for row, states in zip(ROWS, packed(model, ROWS, prefix, first), strict=True):
            own = model.model(torch.tensor([row])).last_hidden_state[0, prefix:]
            torch.testing.assert_close(states, own, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_see_the_others(model: Any) -> None:
    changed = [ROWS[0], [5, 6, 7, 99], *ROWS[2:]]
    with torch.inference_mode():
        before, after = packed(model, ROWS, 3), packed(model, changed, 3)
    assert not torch.equal(before[1], after[1])
    for row in (0, 2, 3):
        assert torch.equal(before[row], after[row])


def test_gradients_equal_those_of_rows_alone(model: Any) -> None:
    model.requires_grad_(False)
    weight = model.model.layers[3].self_attn.k_proj.weight.requires_grad_()
    sum(states.square().sum() for states in packed(model, ROWS, 0)).backward()  # type: ignore[union-attr]
    together, weight.grad = weight.grad, None
    for row in ROWS:
        model.model(torch.tensor([row])).last_hidden_state.square().sum().backward()
    torch.testing.assert_close(together, weight.grad, rtol=1e-3, atol=1e-4)


def test_the_last_feed_forward_part_may_run_where_it_is_needed_only(model: Any) -> None:
    places = layout([len(row) for row in ROWS], 0)
    hidden = model.model.embed_tokens(torch.tensor([[token for row in ROWS for token in row]]))
    needed = torch.tensor([3, 8, 17])
    with torch.inference_mode():
        whole = run_layers(model.model, hidden, places, 4, 6)[0, needed]
        part = run_layers(model.model, hidden, places, 4, 6, needed)[0, needed]
        again = run_layers(model.model, hidden, places, 4, 6)[0, needed]
    torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)
    assert torch.equal(again, whole)


def test_the_model_is_left_as_it_was(model: Any) -> None:
    before = model.config._attn_implementation
    packed(model, ROWS, 3)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4]], 9, 2),
        ([[1, 2, 3], [1, 2, 4]], 1, 1),
        ([[1, 2], [1, 2, 3]], 9, 1),
        ([[1, 2, 3], [1, 2, 3]], 9, 2),
        ([[1], [2]], 9, 0),
        ([[1, 2, 3]], -1, 0),
        ([], 9, 0),
    ],
)
def test_the_common_beginning_leaves_each_row_a_token(rows: list[list[int]], limit: int, expected: int) -> None:
    assert common_beginning(rows, limit) == expected


def test_a_model_that_does_more_than_run_its_layers_is_refused(model: Any) -> None:
    check_packed(model, ROWS)
    odd = copy.deepcopy(model)
    forward = odd.lm_head.forward
    odd.model.embed_tokens.register_forward_hook(lambda *_: None)
    odd.forward = lambda ids: type("Output", (), {"logits": 2 * forward(odd.model(ids).last_hidden_state)})()
    with pytest.raises(InvalidRequest, match="packed logits differ"):
        check_packed(odd, ROWS)


def test_windowed_attention_is_refused_for_longer_rows(model: Any) -> None:
    layer = model.model.layers[0]
    forward = layer.self_attn.forward
    layer.self_attn.forward = lambda **kwargs: forward(**kwargs, sliding_window=4)
    with pytest.raises(InvalidRequest, match="windowed"):
        packed(model, ROWS, 0)
