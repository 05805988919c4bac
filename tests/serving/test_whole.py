"""Adapters of whole weights: served beside the base and low-rank ones, as transformers would run them merged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

import serving.engine
from moatelier.errors import IntegrityError, ResourceExhausted
from moatelier.ids import canonical_json
from modalities.bundle import CONFIG, WEIGHTS
from modalities.text.template import render
from serving.engine import Sampling, TextEngine
from serving.kv import BLOCK
from tests.serving.conftest import Seal
from tests.serving.test_batching import LONG, run, submit, work
from tests.serving.test_engine import prompts, solo

Tensors = dict[str, torch.Tensor]
SealWhole = Callable[..., Path]


def tensors(first: int, seed: int) -> Tensors:
    """The turned-up base's upper layers, or for 0 all of it, each weight stirred."""
    chance = torch.Generator().manual_seed(seed)
    made = {}
    for name, weight in serving.engine.load_base("tiny", "fp32").model.named_parameters():
        layer = int(name.split(".")[2]) if ".layers." in name else -1
        if layer >= first or first == 0:
            made[name] = weight + weight.std() * torch.randn(weight.shape, generator=chance) * 0.7
    return made


@pytest.fixture
def seal_whole(turned_up: str, sealed: Seal) -> SealWhole:
    """Seals whole weights: `seal_whole("name", first=4, seed=1)`."""

    def seal(name: str, first: int = 4, seed: int = 1, spoil: Callable[[Tensors], object] = lambda _: None) -> Path:
        held = tensors(first, seed)
        spoil(held)
        config = canonical_json({"whole_weights": True, "method": "full", "first_layer": first})
        return sealed(name, layers=(first,), change=lambda files: files.update({WEIGHTS: save(held), CONFIG: config}))

    return seal


@pytest.fixture
def served(engine: TextEngine, sealed: Seal, seal_whole: SealWhole) -> TextEngine:
    engine.load_adapter("low", sealed("low", seed=1))
    engine.load_adapter("top", seal_whole("top", seed=1))
    engine.load_adapter("top2", seal_whole("top2", seed=2))
    engine.load_adapter("all", seal_whole("all", first=0, seed=3))
    return engine


def merged(engine: TextEngine, name: str) -> Any:
    """By transformers: the base with the adapter's tensors in place of its own."""
    model = serving.engine.load_base("tiny", "fp32").model
    found = load_file(engine._adapters.get(name).path / WEIGHTS)
    assert not model.load_state_dict(found, strict=False).unexpected_keys
    return model.eval()


@pytest.mark.parametrize("name", ["top", "top2", "all"])
def test_logits_and_greedy_tokens_are_those_of_the_merged_model(served: TextEngine, name: str) -> None:
    model = merged(served, name)
    for turns in [*prompts(3), LONG]:
        ids = render(served.base.tokenizer, turns, True)
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([ids])).logits[0]
            answer = model.generate(
                torch.tensor([ids]), max_new_tokens=10, do_sample=False, eos_token_id=list(served.base.stop_ids)
            )[0, len(ids) :].tolist()
        torch.testing.assert_close(served.logits(ids, adapter=name), expected, rtol=1e-4, atol=1e-4)
        stopped = [token for token in answer if token not in served.base.stop_ids]
        assert list(solo(served, turns, name, Sampling(10)).ids) == stopped


def test_any_mix_in_one_batch_gives_the_tokens_of_solo_runs(served: TextEngine) -> None:
    asked = [(turns, name) for turns in [*prompts(2), LONG] for name in (None, "low", "top", "top2", "all")]
    expected = []
    for turns, name in asked:
        served.blocks.clear()
        expected.append(list(solo(served, turns, name, Sampling(10)).ids))
    assert run(served, [submit(served, turns, name) for turns, name in asked]) == expected
    assert len({tuple(ids) for ids in expected}) > 10, "subjects say the same, so that a mistake would not show"
    both = served.submit(LONG, adapters=["top", "low"], sampling=Sampling(5))  # as one ensemble
    assert len(run(served, both)[0]) == 5


def test_they_share_the_lower_layers_with_the_base_and_each_other(served: TextEngine) -> None:
    length = len(render(served.base.tokenizer, LONG, True))
    rest = length - (length - 1) // BLOCK * BLOCK
    names: list[str | None] = [None, "low", "top", "top2"]
    done = work(served, lambda: [submit(served, LONG, name, 1) for name in names])
    assert done == length * 4 + 3 * rest * 4 + 4 * length * 2
    assert work(served, lambda: [submit(served, LONG, "all", 1)]) == length * 6


def test_scores_are_those_of_the_merged_model(served: TextEngine) -> None:
    rows = [render(served.base.tokenizer, turns, True) for turns in prompts(3)]
    for name in ("top", "all"):
        model = merged(served, name)
        for ids, told in zip(rows, served.score(rows, adapter=name), strict=True):
            with torch.inference_mode():
                logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(told), expected, rtol=1e-3, atol=1e-4)


def test_their_bytes_are_counted_and_they_are_evicted_and_read_again(
    engine: TextEngine, seal_whole: SealWhole, turned_up: str
) -> None:
    before = engine.memory.used
    engine.load_adapter("top", seal_whole("top"))
    size = sum(tensor.nbytes for name, tensor in tensors(4, 1).items() if "norm" not in name)
    assert engine.memory.used - before == size
    first = solo(engine, LONG, "top", Sampling(5))
    engine.memory.limit = 3 * size + 300_000
    for number in range(12):
        engine.load_adapter(f"other{number}", seal_whole(f"other{number}", seed=10 + number))
    assert engine._adapters.get("top").weights is None
    assert solo(engine, LONG, "top", Sampling(5)) == first
    assert engine.memory.used <= engine.memory.limit
    with pytest.raises(ResourceExhausted, match="no room"):
        TextEngine(turned_up, "fp32", memory_gb=1e-5).load_adapter("top", seal_whole("top"))


def test_rooms_of_adapters_that_are_gone_are_given_up(engine: TextEngine, seal_whole: SealWhole) -> None:
    for number in range(4):
        engine.load_adapter("name", seal_whole("name", seed=number))
        solo(engine, LONG, "name", Sampling(2))
        engine.unload_adapter("name")
    assert len([room for room in engine._loop.rooms if room.owner]) <= 1


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_they_are_rounded_as_the_base_is(turned_up: str, seal_whole: SealWhole, precision: Any) -> None:
    exact, rounded = TextEngine(turned_up, "fp32"), TextEngine(turned_up, precision)
    ids = render(exact.base.tokenizer, LONG, True)
    for engine in (exact, rounded):
        engine.load_adapter("all", seal_whole("all", first=0))
    right, found, base = (
        engine.logits(ids, adapter=name)[-1] for engine, name in ((exact, "all"), (rounded, "all"), (exact, None))
    )
    assert float((found - right).norm()) < 0.5 * float((base - right).norm())


@pytest.mark.parametrize(
    ("first", "spoil", "told"),
    [
        (4, lambda held: held.pop("model.layers.5.mlp.up_proj.weight"), "layer 5: .*[Mm]issing"),
        (4, lambda held: held.update({"model.layers.5.mlp.bias": torch.zeros(3)}), "layer 5: .*[Uu]nexpected"),
        (
            4,
            lambda held: held.update({"model.layers.4.mlp.up_proj.weight": torch.zeros(3)}),
            "layer 4: .*size mismatch",
        ),
        (4, lambda held: held.update({"model.norm.weight": torch.ones(32)}), "beside its layers it has model.norm"),
        (0, lambda held: held.pop("model.norm.weight"), "beside its layers it has model.embed_tokens.weight"),
        (3, lambda held: [held.pop(name) for name in list(held) if ".4." in name], "it has layers"),
        (4, lambda held: held.clear(), "it has layers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    engine: TextEngine, seal_whole: SealWhole, first: int, spoil: Callable[[Tensors], object], told: str
) -> None:
    """peft#2115: what is passed over in silence is an adapter that silently does nothing."""
    with pytest.raises(IntegrityError, match=told):
        engine.load_adapter("bad", seal_whole("bad", first=first, spoil=spoil))
    assert engine.adapters == {}
