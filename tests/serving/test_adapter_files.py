"""Adapters of every method in one engine: PEFT is the reference, and company changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import serving.engine
from moatelier.errors import IntegrityError
from modalities.text.model import TextBase
from modalities.text.template import render
from serving.adapter_files import read_weights
from serving.engine import Sampling, TextEngine
from tests.sealing import FAMILY, seal_method
from tests.serving.conftest import Seal
from tests.serving.test_engine import messages, prompts, solo

LONG = messages("where is my order card refund please cancel the parcel has not come broken " * 3)


def peft_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """An independent reference."""
    theirs = PeftModel.from_pretrained(serving.engine.load_base("tiny", "fp32").model, folder).eval()
    with torch.inference_mode():
        logits: torch.Tensor = theirs(input_ids=torch.tensor([ids])).logits[0]
    return logits


# PEFT takes an AdaLoRA's pattern, which names tensors, for one that names modules, says so and uses it rightly.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("first_layer", [0, 4])
@pytest.mark.parametrize("method", FAMILY)
def test_logits_are_those_of_peft(engine: TextEngine, method: str, first_layer: int) -> None:
    folder = seal_method(method, first_layer=first_layer)
    engine.load_adapter(method, folder)
    ids = render(engine.base.tokenizer, LONG, True)
    told = engine.logits(ids, adapter=method)
    torch.testing.assert_close(told, peft_logits(folder, ids), rtol=1e-4, atol=1e-4)
    assert (told - engine.logits(ids, adapter=None)).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_scales_and_biases_are_those_of_peft(turned_up: str, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """IA3 scales a layer's bias with its product, DoRA does not."""
    load = serving.engine.load_base

    def biased(base_id: str, precision: Any = "auto") -> TextBase:
        base, chance = load(base_id, precision), torch.Generator().manual_seed(0)
        for module in base.model.get_decoder().layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.bias = torch.nn.Parameter(torch.randn(module.out_features, generator=chance) * 0.3)
        return base

    monkeypatch.setattr("serving.engine.load_base", biased)
    engine, folder = TextEngine(turned_up, "fp32"), seal_method(method)
    engine.load_adapter(method, folder)
    ids = render(engine.base.tokenizer, LONG, True)
    torch.testing.assert_close(engine.logits(ids, adapter=method), peft_logits(folder, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["dora", "ia3", "vera"])
def test_in_int8_an_adapter_is_as_near_as_the_base(turned_up: str, method: str) -> None:
    """DoRA's norms are of the weights that are multiplied with."""
    folder = seal_method(method, seed=3)
    exact, rounded = (TextEngine(turned_up, precision) for precision in ("fp32", "int8"))
    ids = render(exact.base.tokenizer, LONG, True)
    lost = []
    for engine in (exact, rounded):
        engine.load_adapter(method, folder)
    for name in (None, method):
        full = exact.logits(ids, adapter=name)
        lost.append(float((rounded.logits(ids, adapter=name) - full).norm() / full.norm()))
    assert lost[1] < 1.5 * lost[0]


@pytest.mark.parametrize(
    ("method", "old", "new", "match"),
    [
        ("ia3", b"4|5", b"5", "has unexpected weights: 3"),
        ("ia3", b'mlp\\\\.down_proj"', b'self_attn\\\\.k_proj"', "does not scale the inputs of self_attn.k_proj"),
        ("vera", b'"save_projection":true', b'"save_projection":false', "save_projection"),
        ("vera", b'"r":4', b'"r":5', "has misshapen weights"),
        ("adalora", b"true,", b"false,", "has misshapen weights"),
        ("dora", b'"use_dora":true', b'"use_dora":false', "has unexpected weights: 14"),
        ("rslora", b'"peft_type":"LORA"', b'"peft_type":"OFT"', "does not run adapters of the type OFT"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    engine: TextEngine, tmp_path: Path, method: str, old: bytes, new: bytes, match: str
) -> None:
    folder = seal_method(method)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        data = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(data.replace(old, new) if name.endswith("json") else data)
    assert old in (folder / "adapter_config.json").read_bytes()
    at = engine.model.weights_at
    with pytest.raises(IntegrityError, match=match):
        read_weights(tmp_path, engine._shapes, 6, torch.float32, torch.device("cpu"), at)


def test_any_mix_of_methods_in_one_batch_gives_the_tokens_of_solo_runs(engine: TextEngine, sealed: Seal) -> None:
    engine.load_adapter("lora", sealed("lora"))
    for seed, method in enumerate(FAMILY):
        engine.load_adapter(method, seal_method(method, seed=seed, scale=0.3, first_layer=4 - seed % 2))
    names = [None, "lora", *FAMILY]
    asked = [*prompts(3), LONG]
    expected = []
    for name in names:
        for turns in asked:
            engine.blocks.clear()
            expected.append(list(solo(engine, turns, name, Sampling(10)).ids))
    engine.blocks.clear()
    rows = [engine.submit(turns, adapters=[name], sampling=Sampling(10))[0] for name in names for turns in asked]
    while any(not row.over for row in rows):
        engine.step()
    assert [row.ids for row in rows] == expected
    assert len({tuple(ids) for ids in expected}) > 0.9 * len(expected), "too alike for a mistake to show"
