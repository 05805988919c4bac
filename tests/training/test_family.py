"""The parameter-efficient family: what each method promises, and that each trains, stops and goes on."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moatelier.contracts import TrainResult, TrainSpec
from moatelier.errors import Cancelled, InvalidRequest
from moatelier.job import Job
from moatelier.settings import settings
from modalities import catalogue
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder
from modalities.text.model import TextBase, load_base
from tests.sealing import FAMILY, allocate, attached, stir
from tests.training.rows import dataset, rows, spec
from tests.training.test_run import StopAt
from training import methods
from training.methods import adalora, dylora, lora, tuner
from training.nf4 import NF4Linear
from training.run import work

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
RATES = {"vera": 0.3, "ia3": 0.3, "dora": 0.03, "pissa": 0.01}


@pytest.fixture
def card(tiny: str) -> str:
    return dataset(rows(30), rows(9, start=30))


@pytest.fixture
def base(tiny: str) -> TextBase:
    return load_base("tiny", "fp32")


def fields(card: str, method: str, **changes: Any) -> dict[str, Any]:
    told = {"method": method, "rank": 4, "alpha": 8.0, "learning_rate": RATES.get(method, 0.02), **changes}
    return spec(card, **told).model_dump()


def train(home: Path, told: dict[str, Any], name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(told, Job(home / "jobs" / name, quiet=True)))


def trained(model: Any) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in trained(model).values())


@pytest.mark.parametrize("method", FAMILY)
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, card: str, method: str) -> None:
    """Also what a method remembers from step to step: AdaLoRA's judgements, DyLoRA's rank."""
    told = fields(card, method, dropout=0.0 if method == "ia3" else 0.1)
    undisturbed = train(home, told, "undisturbed")
    assert undisturbed.curve[-1][1] < undisturbed.curve[0][1]
    for step in (3, 5, 8):
        with pytest.raises(Cancelled):
            work(told, StopAt(home / "jobs" / "job", "progress", step))
    resumed = train(home, told)
    assert resumed.curve == undisturbed.curve and resumed.dev_curve == undisturbed.dev_curve
    assert resumed.bundle == undisturbed.bundle


@pytest.mark.parametrize("method", sorted({*FAMILY} - {"qlora"}))
def test_at_step_0_the_logits_are_the_bases(base: TextBase, method: str) -> None:
    """QLoRA promises none: its base is rounded."""
    before = base.model(IDS).logits
    _, model = attached(method, base, 0)
    torch.testing.assert_close(model(IDS).logits, before, rtol=1e-5, atol=1e-6)
    stir(model)
    assert not torch.allclose(model(IDS).logits, before, rtol=1e-3)


@pytest.mark.parametrize("method", FAMILY)
def test_in_bfloat16_what_is_tuned_is_in_float32_and_learns(tiny: str, method: str) -> None:
    base = load_base("tiny", "bf16")
    _, model = attached(method, base, 2)
    model.train()
    model(IDS).logits.float().square().sum().backward()
    tuned = trained(model)
    assert all(parameter.dtype == torch.float32 and parameter.grad is not None for parameter in tuned.values())
    assert all(".layers." in name and int(name.split(".layers.")[1].split(".")[0]) >= 2 for name in tuned)


# ------------------------------------------------------------------------------------------------- method by method


def test_rslora_scales_by_the_root_of_the_rank(base: TextBase) -> None:
    _, model = attached("rslora", base, 4, rank=16, alpha=8.0)
    assert {layer.scaling["default"] for layer in lora.adapted_layers(model)} == {2.0}


@pytest.mark.parametrize("first_layer", [0, 4])
def test_ia3_has_a_number_for_every_key_value_and_inner_activation(base: TextBase, first_layer: int) -> None:
    _, model = attached("ia3", base, first_layer)
    assert count(model) == (6 - first_layer) * (16 + 16 + 64)


def test_vera_has_two_vectors_a_layer_between_shared_matrices(base: TextBase) -> None:
    module, model = attached("vera", base, 4, rank=8)
    assert count(model) == 2 * (7 * 8 + 32 + 16 + 16 + 32 + 64 + 64 + 32)
    shared = [name for name in module.weights(model) if "vera_A" in name or "vera_B" in name]
    assert shared == ["base_model.vera_A", "base_model.vera_B"]


def test_lora_fa_leaves_a_as_it_was_drawn(home: Path, card: str) -> None:
    result = train(home, fields(card, "lora_fa"))
    after = load_file(bundle_folder(result.bundle) / WEIGHTS)
    _, model = attached("lora_fa", load_base("tiny", "fp32"), 4)
    for name, tensor in tuner.weights(model).items():
        assert torch.equal(after[name], tensor) == ("lora_A" in name)


def test_lora_fa_keeps_less_for_backward(base: TextBase) -> None:
    def kept(method: str) -> int:
        _, model = attached(method, base, 0)
        [layer] = [layer for layer in lora.adapted_layers(model) if layer is model.model.model.layers[2].mlp.down_proj]
        seen: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            seen.append(tensor.nbytes * (tensor.data_ptr() not in known))
            return tensor

        known = {parameter.data_ptr() for parameter in model.parameters()}
        x = torch.randn(1, 100, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            layer(x)
        model.unload()
        return sum(seen)

    assert kept("lora") == 4 * 100 * (64 + 4)
    assert kept("lora_fa") == 4 * 100 * 4


def test_pissa_is_sealed_as_peft_itself_converts_it(base: TextBase, tmp_path: Path) -> None:
    module, model = attached("pissa", base, 3)
    original = load_base("tiny", "fp32").model
    weight = model.base_model.model.model.layers[3].mlp.up_proj.base_layer.weight
    assert not torch.equal(weight, original.model.layers[3].mlp.up_proj.weight)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = "pissa_niter_16"
    stir(model)
    expected = model(IDS).logits
    model.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    theirs, ours = load_file(tmp_path / "theirs" / WEIGHTS), module.sealed(model, torch.float32)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    sealed = json.loads(module.config(model, "tiny"))
    assert (sealed["r"], sealed["lora_alpha"], sealed["init_lora_weights"]) == (8, 16.0, True)
    save_file(ours, tmp_path / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / CONFIG).write_bytes(module.config(model, "tiny"))
    on_the_base = PeftModel.from_pretrained(original, tmp_path).eval()
    torch.testing.assert_close(on_the_base(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epochs", [0.2, 0.4, 1.0, 4.0])
def test_adalora_ends_at_its_target_rank(home: Path, card: str, epochs: float) -> None:
    """Of all lengths, one step among them; what is cut is not just zero, it is not there."""
    folder = bundle_folder(train(home, fields(card, "adalora", epochs=epochs)).bundle)
    pattern = json.loads((folder / CONFIG).read_bytes())["rank_pattern"]
    left = [sum(kept) for kept in pattern.values()]
    assert (len(left), sum(left)) == (14, 14 * 4)
    tensors = load_file(folder / WEIGHTS)
    assert sum(len(tensor) for name, tensor in tensors.items() if "lora_E" in name) == 14 * 4
    assert epochs < 4 or len(set(left)) > 1, "every layer has the same rank"


def test_adalora_that_ran_out_of_time_keeps_what_it_was_measured_with(base: TextBase) -> None:
    module, model = attached("adalora", base, 4)
    model.train()
    for step in (1, 2):
        for parameter in trained(model).values():
            parameter.grad = torch.ones_like(parameter)
        stir(model, step)
        module.after_step(model, step, 10)
    assert json.loads(module.config(model, "tiny"))["rank_pattern"] is None
    assert all(
        torch.equal(tensor, module.weights(model)[name]) for name, tensor in module.sealed(model, torch.float32).items()
    )


def test_adaloras_penalty_has_a_gradient_and_is_not_in_the_curve(base: TextBase) -> None:
    _, model = attached("adalora", base, 4)
    penalty = adalora.penalty(model)
    far = [
        torch.linalg.norm(gram - torch.eye(6))
        for layer in model.modules()
        if hasattr(layer, "lora_E")
        for gram in (
            layer.lora_A["default"] @ layer.lora_A["default"].T,
            layer.lora_B["default"].T @ layer.lora_B["default"],
        )
    ]
    torch.testing.assert_close(penalty, 0.1 * torch.stack(far).mean())


def test_adaloras_first_loss_is_the_bases(home: Path, card: str) -> None:
    told = fields(card, "adalora", epochs=0.2)
    assert train(home, told).curve[0][1] == pytest.approx(train(home, told | {"method": "lora"}, "b").curve[0][1])


def test_dylora_trains_the_rank_of_the_step_and_answers_with_all(base: TextBase) -> None:
    _, model = attached("dylora", base, 0, rank=8)
    drawn = set()
    for step in range(40):
        dylora.after_step(model, step, 40)
        drawn.add(model.width.now)
        model.train().zero_grad()
        model(IDS).logits.square().sum().backward()
        for name, parameter in trained(model).items():
            moved = parameter.grad.abs().sum(dim=1 if "lora_A" in name else 0) > 0
            assert not moved[model.width.now :].any()
    assert drawn == set(range(1, 9))
    model.eval()
    stir(model)
    alone = model(IDS).logits
    model.width.now = 1
    assert torch.equal(model(IDS).logits, alone)


def test_of_a_dylora_any_rank_can_be_deployed(home: Path, card: str, tmp_path: Path) -> None:
    """At most 5 % worse than a LoRA that was trained with just that rank."""
    told = {"rank": 8, "alpha": 8.0, "epochs": 12.0, "learning_rate": 0.02}
    folder = bundle_folder(train(home, fields(card, "dylora", **told)).bundle)
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    for rank in (1, 2, 4, 8):
        fixed = bundle_folder(train(home, fields(card, "lora", **told | {"rank": rank}), f"r{rank}").bundle)
        cut = tmp_path / str(rank)
        cut.mkdir()
        for name, data in dylora.truncated(files, rank).items():
            (cut / name).write_bytes(data)
        assert dev_loss(cut) <= 1.05 * dev_loss(fixed)
    for rank in (0, 9):
        with pytest.raises(InvalidRequest, match="from 1 to 8"):
            dylora.truncated(files, rank)


def dev_loss(folder: Path) -> float:
    """Mean loss per answer token of the dev rows, by PEFT."""
    base = load_base("tiny", "fp32")
    model = PeftModel.from_pretrained(base.model, folder).eval()
    total, tokens = 0.0, 0
    for row in rows(9, start=30):
        ids = base.tokenizer.apply_chat_template(row["messages"], return_dict=False)
        prompt = base.tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=False)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
        total += float(nn.functional.cross_entropy(logits, torch.tensor(ids[len(prompt) :]), reduction="sum"))
        tokens += len(ids) - len(prompt)
    return total / tokens


def test_nf4_rounds_to_four_bits_and_a_bit_more() -> None:
    layer = nn.Linear(576, 1536)
    nn.init.normal_(layer.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    rounded = NF4Linear(layer)
    assert 8 * rounded.bytes / layer.weight.numel() < 4.14
    error = float((rounded.weight - layer.weight.detach()).norm() / layer.weight.detach().norm())
    assert error < 0.093, "normal weights lose 9.2 % in NF4"
    again = nn.Linear(576, 1536)
    again.weight.data = rounded.weight
    assert float((NF4Linear(again).weight - rounded.weight).norm() / rounded.weight.norm()) < 0.01
    x = torch.randn(3, 576, requires_grad=True)
    torch.testing.assert_close(rounded(x), nn.functional.linear(x, rounded.weight, layer.bias))
    (gradient,) = torch.autograd.grad(rounded(x).square().sum(), x)
    (expected,) = torch.autograd.grad(nn.functional.linear(x, rounded.weight, layer.bias).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("shape", [(3, 5), (64, 100), (1, 1)])
def test_nf4_takes_any_shape_and_zeros(shape: tuple[int, int]) -> None:
    layer = nn.Linear(shape[1], shape[0], bias=False)
    layer.weight.data[0] = 0
    rounded = NF4Linear(layer)
    assert rounded.weight.shape == layer.weight.shape and bool(rounded.weight.isfinite().all())
    assert (rounded.weight - layer.weight).abs().max() < 0.2 * layer.weight.abs().max() + 1e-6


def test_qlora_rounds_the_blocks_it_tunes(base: TextBase) -> None:
    before = copy.deepcopy(base.model.state_dict())
    _, model = attached("qlora", base, 4)
    rounded = {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}
    assert len(rounded) == 14 and all(".layers.4." in name or ".layers.5." in name for name in rounded)
    assert torch.equal(
        model.base_model.model.model.layers[3].mlp.up_proj.weight, before["model.layers.3.mlp.up_proj.weight"]
    )


def test_qlora_loses_little_to_lora(home: Path, card: str) -> None:
    told = {"epochs": 8.0, "rank": 8}
    rounded, exact = (train(home, fields(card, method, **told), method) for method in ("qlora", "lora"))
    assert rounded.dev_loss is not None and exact.dev_loss is not None
    assert rounded.dev_loss <= exact.dev_loss + 0.05


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_layer_that_nf4_does_not_know_is_refused(base: TextBase) -> None:
    class Odd(nn.Linear):
        pass

    old = base.model.model.layers[5].mlp.up_proj
    odd = Odd(old.in_features, old.out_features, bias=False)
    base.model.model.layers[5].mlp.up_proj = odd
    with pytest.raises(InvalidRequest, match="type Odd cannot be rounded") as caught:
        attached("qlora", base, 4)
    assert "up_proj" in str(caught.value) and "Use `lora`" in str(caught.value)


def test_a_rank_above_what_a_layer_has_is_refused_by_pissa(base: TextBase) -> None:
    with pytest.raises(InvalidRequest, match="at most 16"):
        attached("pissa", base, 4, rank=17)


@pytest.mark.parametrize("method", ["lora", "adalora", "vera"])
def test_rank_0_is_refused_by_name(card: str, home: Path, method: str) -> None:
    told = fields(card, method) | {"rank": 0}
    with pytest.raises(InvalidRequest, match="rank"):
        work(told, Job(home / "jobs" / "job", quiet=True))
    with pytest.raises(InvalidRequest, match="at least 1"):
        methods.load(TrainSpec.model_construct(**told), "text")


def test_a_tied_head_takes_no_adapter(base: TextBase) -> None:
    with pytest.raises(InvalidRequest, match="shares its weight"):
        lora.adapt(base.model, spec("0" * 64), ["q_proj", "lm_head"])
    base.model.lm_head.weight = nn.Parameter(base.model.lm_head.weight.clone())
    base.model.config.tie_word_embeddings = False
    lora.adapt(base.model, spec("0" * 64), ["q_proj", "lm_head"])


def test_an_activated_adapter_without_its_tokens_is_refused(base: TextBase) -> None:
    module, model = attached("alora", base, 4)
    with pytest.raises(InvalidRequest, match="no tokens that open"):
        module.activate_by(model, [])


def test_allocation_by_chance_is_to_the_target_too(base: TextBase) -> None:
    module, model = attached("adalora", base, 4)
    stir(model)
    allocate(module, model)
    assert (
        sum(len(tensor) for name, tensor in module.sealed(model, torch.float32).items() if "lora_E" in name) == 14 * 4
    )
    assert all(len(tensor) == 6 for name, tensor in module.weights(model).items() if "lora_E" in name)


# ------------------------------------------------------------------------------------------------------- real pack


@pytest.mark.slow
def test_the_published_numbers_of_parameters_on_the_real_pack() -> None:
    pack = "smollm2-135m-instruct"
    if not catalogue.is_pulled(pack):
        pytest.skip(f"not pulled: `moatelier models pull {pack}`")
    _, model = attached("ia3", load_base(pack, "fp32"), 0)
    assert count(model) == 57_600
    _, model = attached("rslora", load_base(pack, "fp32"), 0, rank=8)
    assert count(model) == 2_442_240
    _, model = attached("qlora", load_base(pack, "bf16"), 0, rank=8)
    rounded = [module for module in model.modules() if isinstance(module, NF4Linear)]
    weights = sum(module.in_features * module.out_features for module in rounded)
    assert weights == 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert 8 * sum(module.bytes for module in rounded) / weights <= 4.5


@pytest.mark.slow
def test_qlora_loses_little_to_lora_on_the_real_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = "smollm2-135m-instruct"
    if not catalogue.is_pulled(pack):
        pytest.skip(f"not pulled: `moatelier models pull {pack}`")
    monkeypatch.setenv("MOATELIER_HOME", str(tmp_path))  # the cache with the pack stays
    settings.cache_clear()
    card = dataset(rows(48), rows(12, start=48))
    told = {"base": pack, "rank": 8, "epochs": 2.0, "learning_rate": 1e-3, "precision": "auto"}
    lost = {}
    for method in ("lora", "qlora"):
        lost[method] = train(tmp_path, fields(card, method, **told), method).dev_loss
    settings.cache_clear()
    print(lost)
    assert lost["lora"] is not None and lost["qlora"] is not None
    assert lost["qlora"] <= lost["lora"] + 0.05
