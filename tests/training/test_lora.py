"""LoRA by PEFT: where adapters stand, what they compute, and that PEFT alone reads them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from moatelier.contracts import TrainSpec
from moatelier.errors import IntegrityError
from modalities import catalogue
from modalities.text.model import load_base
from training.methods import lora

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec(method="lora", base="tiny", dataset="d", suffix="s", **{"rank": 4, **changes})


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).requires_grad_(False)


def stirred(model: Any) -> Any:
    """Give B values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def test_adapters_stand_on_all_linear_layers_of_the_upper_blocks_in_float32(model: Any) -> None:
    """peft#2321, peft#1388, peft#2018: none on the head, which this base shares with its embeddings."""
    adapted = lora.attach(model.to(torch.bfloat16), spec(), 4)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2  # blocks, linear layers, A and B
    assert all(".layers.4." in name or ".layers.5." in name for name in trained)
    assert all(p.dtype == torch.float32 for p in trained.values())
    assert adapted.get_base_model().lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("first_layer", [0, 3])
def test_the_number_of_parameters(model: Any, first_layer: int) -> None:
    adapted = lora.attach(model, spec(rank=3), first_layer)
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    assert _trained(adapted) == (6 - first_layer) * 3 * sum(map(sum, sizes))


@pytest.mark.slow
def test_the_published_number_of_parameters_on_the_real_pack() -> None:
    base = "smollm2-135m-instruct"
    if not catalogue.is_pulled(base):
        pytest.skip(f"not pulled: `moatelier models pull {base}`")
    adapted = lora.attach(load_base(base, "fp32").model, spec(rank=8), 0)
    assert _trained(adapted) == 2_442_240  # 8 * (2 * 1152 + 2 * 768 + 3 * 2112) in each of 30 blocks


def _trained(adapted: Any) -> int:
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_at_step_0_the_logits_are_the_bases(model: Any, dropout: float) -> None:
    before = model(IDS).logits
    adapted = lora.attach(model, spec(dropout=dropout), 0)
    assert torch.equal(adapted(IDS).logits, before)


def test_the_seed_decides_on_a(model: Any, tiny_folder: Path) -> None:
    first = lora.weights(lora.attach(model, spec(), 4))
    for seed, same in ((0, True), (1, False)):
        other = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        again = lora.weights(lora.attach(other, spec(seed=seed), 4))
        assert all(torch.equal(again[name], first[name]) for name in first) == same


def _run(adapted: Any, *, fused: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and gradients by our own product, or by PEFT's."""
    layers = [module for module in adapted.modules() if isinstance(module, LoraLinear)]
    assert all("forward" in vars(layer) for layer in layers)
    for layer in [] if fused else layers:
        del layer.forward
    logits = adapted(IDS).logits.float()
    logits.square().sum().backward()
    gradients = [parameter.grad for parameter in adapted.parameters() if parameter.requires_grad]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return logits.detach(), gradients


def test_the_fused_product_equals_pefts_in_values_and_gradients(tiny_folder: Path) -> None:
    def run(fused: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        return _run(stirred(lora.attach(model, spec(), 2)), fused=fused)

    (logits, gradients), (expected_logits, expected_gradients) = run(True), run(False)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-6)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert (gradient - expected).norm() < 1e-4 * expected.norm() + 1e-6


def test_in_bfloat16_the_fused_product_is_about_as_near_to_the_truth_as_pefts(tiny_folder: Path) -> None:
    def run(dtype: torch.dtype, fused: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        adapted = stirred(lora.attach(model.to(torch.bfloat16).to(dtype), spec(), 2))  # the same rounded weights
        logits, gradients = _run(adapted, fused=fused)
        return logits, torch.cat([gradient.flatten() for gradient in gradients])

    truth = run(torch.float32, False)
    ours, pefts = (
        [(got - true).norm() for got, true in zip(run(torch.bfloat16, fused), truth, strict=True)]
        for fused in (True, False)
    )
    assert all(mine < 1.5 * theirs for mine, theirs in zip(ours, pefts, strict=True))


def test_pefts_own_product_stays_where_ours_does_not_fit(model: Any) -> None:
    adapted = lora.attach(model, spec(dropout=0.1), 4)
    assert not any("forward" in vars(module) for module in adapted.modules() if isinstance(module, LoraLinear))


def test_peft_loads_what_was_saved_and_merges_within_tolerance(model: Any, tiny_folder: Path, tmp_path: Path) -> None:
    """LLaMA-Factory#5232, unsloth#1832: good in the tool, bad after export. peft#2321: lost by merging."""
    adapted = stirred(lora.attach(model, spec(), 4))
    expected = adapted(IDS).logits
    save_file(lora.weights(adapted), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    (tmp_path / "adapter_config.json").write_bytes(lora.config(adapted, "tiny"))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loaded.merge_and_unload()(IDS).logits, expected, rtol=0, atol=1e-4)


def test_weights_come_back_bit_by_bit_and_wrong_ones_are_refused(model: Any, tiny_folder: Path) -> None:
    """peft#2115, peft#2566, vllm#48019: an adapter that silently does nothing."""
    saved = lora.weights(stirred(lora.attach(model, spec(), 4)))
    fresh = lora.attach(AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32), spec(seed=9), 4)
    lora.restore(fresh, saved)
    restored = lora.weights(fresh)
    assert all(torch.equal(restored[name], saved[name]) for name in saved)
    name = next(iter(saved))
    with pytest.raises(IntegrityError, match=name):
        lora.restore(fresh, {key: value for key, value in saved.items() if key != name})
    with pytest.raises(IntegrityError, match=r"lm_head\.lora_A"):
        lora.restore(fresh, saved | {"base_model.model.lm_head.lora_A.weight": torch.zeros(1)})


def test_the_configuration_is_the_same_in_every_process(model: Any, tiny_folder: Path) -> None:
    config = lora.config(lora.attach(model, spec(), 4), "tiny")
    assert json.loads(config)["base_model_name_or_path"] == "tiny"
    assert str(tiny_folder).encode() not in config
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M; from training.methods import lora;"
        "from tests.training.test_lora import spec;"
        "sys.stdout.buffer.write(lora.config(lora.attach(M.from_pretrained(sys.argv[1]), spec(), 4), 'tiny'))"
    )
    other = subprocess.run([sys.executable, "-c", code, str(tiny_folder)], capture_output=True, check=True)
    assert other.stdout == config
