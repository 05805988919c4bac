"""Methods that change whole weights: what they train, what they leave, how they come back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from evals.loss import mean_loss
from evals.rows import EvalRow
from moatelier.contracts import TrainResult, TrainSpec
from moatelier.errors import Cancelled, IntegrityError, InvalidRequest
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, read_manifest
from modalities.text.model import load_base
from modalities.text.template import render
from serving.engine import Sampling, TextEngine
from tests.training.rows import dataset, rows, spec
from tests.training.test_run import StopAt, train
from training.loss import frozen_head_loss, trained_head_loss, wrong_tokens
from training.methods import full, hft
from training.run import work
from training.text import encode

WAYS = [
    ("full", {"learning_rate": 3e-3}),
    ("hft", {"learning_rate": 3e-3, "rounds": 2}),
    ("lomo", {"learning_rate": 0.3}),
    ("mezo", {"learning_rate": 1e-4, "batch_rows": 18, "epochs": 40.0}),
]


def fields(method: str, **changes: Any) -> dict[str, Any]:
    card = dataset(rows(18), rows(3, start=18))
    return spec(card, method=method, rank=1, **changes).model_dump()


def tensors(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(bundle_folder(result.bundle) / WEIGHTS)


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)


@pytest.mark.parametrize("layers", ["top_third", "all"])
@pytest.mark.parametrize(("method", "told"), WAYS)
def test_each_learns_and_changes_the_layers_it_names_alone(
    home: Path, tiny: str, tiny_folder: Path, method: str, told: dict[str, Any], layers: str
) -> None:
    result = train(home, fields(method, layers=layers, **told))
    assert result.curve[-1][1] < result.curve[0][1]
    assert result.dev_loss is not None and result.dev_loss < result.dev_curve[0][1]
    config = json.loads((bundle_folder(result.bundle) / CONFIG).read_bytes())
    first = 4 if layers == "top_third" else 0
    assert (config["method"], config["first_layer"], config["whole_weights"]) == (method, first, True)
    assert read_manifest(bundle_folder(result.bundle)).first_layer == first
    base = load_file(tiny_folder / "model.safetensors")
    found = tensors(result)
    expected = base if layers == "all" else {n for n in base if ".layers.4." in n or ".layers.5." in n}
    assert found.keys() == set(expected)
    changed = {name for name, tensor in found.items() if not torch.equal(tensor, base[name])}
    assert changed == found.keys() or (method == "hft" and changed < found.keys())


@pytest.mark.parametrize(("method", "told"), WAYS)
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, tiny: str, method: str, told: dict[str, Any]) -> None:
    fitted = fields(method, layers="all", **told | {"epochs": 2.0, "batch_rows": 3})  # 12 steps, a round ends at 6
    undisturbed = train(home, fitted, "undisturbed")
    for step in (3, 6, 9):
        with pytest.raises(Cancelled):
            work(fitted, StopAt(home / "jobs" / "job", "progress", step))
    resumed = train(home, fitted)
    assert resumed.curve == undisturbed.curve and resumed.bundle == undisturbed.bundle


def test_what_was_sealed_is_what_was_trained(home: Path, tiny: str, model: Any) -> None:
    """LLaMA-Factory#5232, unsloth#1832: good in the tool, bad after export."""
    result = train(home, fields("full", layers="all", learning_rate=3e-3))
    saved = tensors(result)
    full.attach(model, TrainSpec.model_validate(fields("full", layers="all")), 0)
    full.restore(model, saved)
    again = full.sealed(model, torch.float32)
    assert again.keys() == saved.keys() and all(torch.equal(again[name], saved[name]) for name in saved)
    name = next(iter(saved))
    with pytest.raises(IntegrityError, match=name):
        full.restore(model, saved | {name: torch.zeros(1)})


def test_a_layer_that_is_not_there_is_refused(model: Any) -> None:
    with pytest.raises(InvalidRequest, match="Its layers are 0 to 5"):
        full.attach(model, spec("0" * 64, method="full"), 6)


def test_weights_are_kept_in_float32_beside_a_base_in_bfloat16(home: Path, tiny: str) -> None:
    """Steps of a usual rate are lost in bfloat16: 1e-5 beside a weight of 0.02 is a twelfth of what it can tell."""
    told = {"learning_rate": 1e-4, "epochs": 6.0, "layers": "all"}
    exact = train(home, fields("full", **told), "exact")
    mixed = train(home, fields("full", precision="bf16", **told), "mixed")
    assert mixed.precision == "bf16" and {t.dtype for t in tensors(mixed).values()} == {torch.bfloat16}
    fallen, right = (run.curve[0][1] - run.curve[-1][1] for run in (mixed, exact))
    assert fallen == pytest.approx(right, rel=0.2)


# ------------------------------------------------------------------------------------------------ a head that learns


def test_the_loss_reaches_a_head_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.loss._PIECE", 4)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30, bias=False)
    states, targets = torch.randn(10, 8, requires_grad=True), torch.arange(10)
    (0.5 * trained_head_loss(states, targets, head)).backward()
    assert states.grad is not None and head.weight.grad is not None
    found = states.grad.clone(), head.weight.grad.clone()
    states.grad = head.weight.grad = None
    (0.5 * F.cross_entropy(head(states), targets, reduction="sum")).backward()
    for ours, expected in zip(found, (states.grad, head.weight.grad), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trained_head_loss(states, targets, head), frozen_head_loss(states, targets, head))
    assert int(wrong_tokens(states, targets, head)) == int((head(states).argmax(-1) != targets).sum())


def test_a_tied_table_gets_the_gradient_of_both_its_uses(home: Path, tiny: str, model: Any) -> None:
    """One row of plain cross-entropy by transformers itself, a step of SGD: the same table."""
    made = rows(1)
    told = spec(
        dataset(made, []), method="full", layers="all", optimizer="sgd", batch_rows=1, epochs=1.0, warmup_ratio=0.0
    )
    result = train(home, told.model_copy(update={"max_grad_norm": 0.0, "learning_rate": 0.5}).model_dump())
    encoded = _encoded(made)
    logits = model(torch.tensor([encoded.ids])).logits[0, :-1]
    learnt = torch.tensor(encoded.trained[1:])
    F.cross_entropy(logits[learnt], torch.tensor(encoded.ids[1:])[learnt]).backward()
    for name, parameter in model.named_parameters():
        expected = parameter.data - 0.5 * parameter.grad
        torch.testing.assert_close(tensors(result)[name], expected, rtol=1e-4, atol=1e-5)


def _encoded(made: list[dict[str, Any]]) -> Any:
    return encode(load_base("tiny", "fp32"), "train", made)[0]


@pytest.mark.parametrize("layers", ["top_third", "all"])
def test_what_was_trained_is_what_is_served(home: Path, tiny: str, model: Any, layers: str) -> None:
    result = train(home, fields("full", layers=layers, learning_rate=3e-3, epochs=6.0))
    engine = TextEngine("tiny", "fp32")
    engine.load_adapter("tuned", bundle_folder(result.bundle))
    model.load_state_dict(tensors(result), strict=False)
    for row in rows(3, start=18):
        ids = render(engine.base.tokenizer, row["messages"][:2], True)
        with torch.inference_mode():
            whole = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
        answer = engine.generate([row["messages"][:2]], adapter="tuned", sampling=Sampling(8))[0]
        assert list(answer.ids) == [token for token in whole if token not in engine.base.stop_ids]
    held = [EvalRow(row["id"], tuple(row["messages"][:2]), row["label"]) for row in rows(3, start=18)]
    assert mean_loss(engine, held, adapter="tuned") == pytest.approx(result.dev_loss, rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ halves


def test_a_round_trains_a_half_of_each_category(model: Any) -> None:
    names = [name for name, _ in model.named_parameters()]
    half = hft.chosen(names, seed=0, number=0)
    for block in range(6):
        inside = {name for name in half if f".layers.{block}." in name}
        assert sum("self_attn" in name for name in inside) == 2
        assert sum("mlp" in name for name in inside) in (1, 2)
    assert sum("mlp" in name for name in half) == 3 * 2 + 3 * 1
    assert sum("norm" in name for name in half) == 6  # of 13
    assert "model.embed_tokens.weight" in half
    assert half == hft.chosen(names, seed=0, number=0) != hft.chosen(names, seed=0, number=1)


def test_what_a_round_does_not_train_stays_bit_by_bit(home: Path, tiny: str, tiny_folder: Path) -> None:
    result = train(home, fields("hft", layers="all", learning_rate=3e-3, weight_decay=0.1))
    base, found = load_file(tiny_folder / "model.safetensors"), tensors(result)
    half = hft.chosen(list(base), seed=0, number=0)
    assert {name for name in base if not torch.equal(base[name], found[name])} == half
    config = json.loads((bundle_folder(result.bundle) / CONFIG).read_bytes())
    share = sum(base[name].numel() for name in half) / sum(tensor.numel() for tensor in base.values())
    assert config["trained_shares"] == [pytest.approx(share, abs=1e-4)] and 0.4 < share < 0.7


def test_rounds_take_other_halves(home: Path, tiny: str, tiny_folder: Path) -> None:
    result = train(home, fields("hft", layers="all", learning_rate=3e-3, rounds=3, epochs=4.0))
    base, found = load_file(tiny_folder / "model.safetensors"), tensors(result)
    halves = [hft.chosen(list(base), seed=0, number=number) for number in range(3)]
    assert {name for name in base if not torch.equal(base[name], found[name])} == set().union(*halves)
