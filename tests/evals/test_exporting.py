"""Exports are read by another library, answer as we do, and are handed out only then."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import IA3Config, LoraConfig, PromptTuningConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from evals import exporting
from moatelier.contracts import ExportSpec, Parity
from moatelier.errors import IntegrityError, InvalidRequest, NotFound, ResourceExhausted
from moatelier.job import Job
from moatelier.settings import settings
from modalities import catalogue, pull
from modalities.bundle import bundle_folder
from modalities.exported import PARITY, export_folder, read_export
from modalities.text.model import load_base
from tests.evals.conftest import Train
from tests.fakes import tiny_catalogue, tiny_tokenizer
from training.export import gguf_file, load, merged_folder, text

FORMATS = [("peft", "f32"), ("safetensors", "f32"), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "q8_0")]


def wish(bundle: str, format: Any, numbers: Any = "f32") -> ExportSpec:
    return ExportSpec(bundle=bundle, format=format, numbers=numbers)


def export(spec: ExportSpec, tmp_path: Path, job: str = "job") -> Parity:
    return Parity.model_validate(exporting.work(spec.model_dump(mode="json"), Job(tmp_path / job, quiet=True)))


def left_over() -> list[str]:
    """Whatever lies where exports belong, but for locks."""
    folder = settings().home / "exports"
    return [entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")] if folder.exists() else []


@pytest.mark.parametrize(("format", "numbers"), FORMATS)
def test_another_reader_answers_as_we_do(train: Train, tmp_path: Path, format: str, numbers: str) -> None:
    spec = wish(train(epochs=4), format, numbers)
    parity = export(spec, tmp_path)
    assert parity.equal_answers == parity.prompts == 12
    assert 0 <= parity.largest_difference <= parity.tolerance and parity.score == parity.score_exported
    assert (parity.merge_difference is None) == (format == "peft")
    folder = export_folder(spec)
    assert read_export(folder) == parity == Parity.model_validate_json((folder / PARITY).read_bytes())
    assert left_over() == [folder.name]


def test_a_tied_head_stays_tied_and_unmerged_layers_are_the_bases(train: Train, tmp_path: Path) -> None:
    spec = wish(train(epochs=1), "safetensors")
    export(spec, tmp_path)
    ours = load_file(export_folder(spec) / "model.safetensors")
    base = load_file(catalogue.folder("tiny") / "model.safetensors")
    assert ours.keys() == base.keys() and "lm_head.weight" not in ours
    changed = {name for name in base if not torch.equal(ours[name], base[name])}
    assert changed == {name for name in base if ".layers.4." in name or ".layers.5." in name} - {
        name for name in base if "norm" in name
    }


def test_stop_tokens_and_template_go_along(train: Train, tmp_path: Path) -> None:
    bundle = train()
    merged, packed = wish(bundle, "safetensors"), wish(bundle, "gguf", "f16")
    for spec in (merged, packed):
        export(spec, tmp_path, spec.format)
    end = tiny_tokenizer().eos_token_id
    assert json.loads((export_folder(merged) / "generation_config.json").read_bytes())["eos_token_id"] == [end]
    told = GGUFReader(export_folder(packed) / gguf_file.FILE)
    fields = {name: told.get_field(f"tokenizer.{name}").contents() for name in ("chat_template", "ggml.eos_token_id")}
    assert fields == {"chat_template": tiny_tokenizer().chat_template, "ggml.eos_token_id": end}


def test_the_folder_for_vllm_holds_what_it_reads_and_no_field_that_says_nothing(train: Train, tmp_path: Path) -> None:
    spec = wish(train(rank=8), "peft")
    export(spec, tmp_path)
    folder = export_folder(spec)
    told = json.loads((folder / "adapter_config.json").read_bytes())
    assert told.keys() == {
        *("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "bias"),
        *("layers_to_transform", "layers_pattern", "inference_mode"),
    }
    assert told["base_model_name_or_path"] == str(catalogue.folder("tiny"))
    assert "--max-lora-rank 8 --lora-modules support=" in (folder / "README.md").read_text()
    sealed = bundle_folder(spec.bundle) / "adapter_model.safetensors"
    assert (folder / "adapter_model.safetensors").read_bytes() == sealed.read_bytes()


def test_an_activated_adapter_goes_to_peft_and_cannot_be_merged(train: Train, tmp_path: Path) -> None:
    bundle = train(method="alora", epochs=4)
    assert export(wish(bundle, "peft"), tmp_path).equal_answers == 12
    for format in ("safetensors", "gguf"):
        with pytest.raises(InvalidRequest, match="acts on answers only"):
            export(wish(bundle, format), tmp_path, format)
    assert left_over() == [export_folder(wish(bundle, "peft")).name]


def test_the_same_again_is_found_and_a_changed_file_made_anew(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = wish(train(), "safetensors")
    first = export(spec, tmp_path)
    weights = export_folder(spec) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="not those that were compared"):
        read_export(export_folder(spec))
    assert export(spec, tmp_path, "again") == first == read_export(export_folder(spec))
    monkeypatch.setattr(exporting, "load", lambda *_: pytest.fail("it is there"))
    assert export(spec, tmp_path, "third") == first
    shutil.rmtree(export_folder(spec))
    with pytest.raises(NotFound):
        read_export(export_folder(spec))


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]) -> None:
    """Change the merged folder after it was written, as a faulty exporter would."""
    whole = merged_folder.write

    def write(folder: Path, *others: Any) -> None:
        whole(folder, *others)
        change(folder)

    monkeypatch.setattr(merged_folder, "write", write)


def unmerged(folder: Path) -> None:
    shutil.copyfile(catalogue.folder("tiny") / "model.safetensors", folder / "model.safetensors")


def noisy(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 1.1  # answers stay, logits do not
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_template(folder: Path) -> None:
    told = folder / "chat_template.jinja"
    told.write_text(told.read_text().replace("{{ message['content'] }}", " {{ message['content'] }} "))


def never_stops(folder: Path) -> None:
    told = json.loads((folder / "generation_config.json").read_bytes())
    (folder / "generation_config.json").write_text(json.dumps(told | {"eos_token_id": 0}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unmerged, "part at token"),
        (noisy, "logits differ by"),
        (other_template, "part at token"),
        (never_stops, "part at token"),
    ],
)
def test_what_answers_differently_is_not_handed_out(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], told: str
) -> None:
    spoil(monkeypatch, change)
    with pytest.raises(IntegrityError, match=told) as caught:
        export(wish(train(epochs=8), "safetensors"), tmp_path)
    assert caught.value.where and "Nothing was handed out" in caught.value.remedy
    assert left_over() == []


def test_a_head_turned_the_wrong_way_in_gguf_is_seen(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "_interleaved", lambda values, _: np.asarray(values))
    with pytest.raises(IntegrityError, match="read by transformers .*GGUF"):
        export(wish(train(epochs=4), "gguf"), tmp_path)
    assert left_over() == []


def test_numbers_that_are_no_numbers_are_no_parity(train: Train, tmp_path: Path) -> None:
    parity = export(wish(train(), "peft"), tmp_path)
    for field in ("largest_difference", "merge_difference", "score_exported"):
        with pytest.raises(IntegrityError, match="nan"):
            exporting.check(parity.model_copy(update={field: float("nan")}), _manifest(parity), [], [], _reading())


def _manifest(parity: Parity) -> Any:
    return exporting.read_manifest(bundle_folder(parity.adapter))


def _reading() -> Any:
    return exporting.Reading("nobody", [], [0.0])


def test_a_disk_without_room_is_told_before_anything_is_written(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = wish(train(), "safetensors")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceExhausted, match="are free"):
        export(spec, tmp_path)
    monkeypatch.undo()


def test_a_disk_that_fills_while_it_is_written_is_told(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_file.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(ResourceExhausted, match="No space left"):
        export(wish(train(), "gguf", "f16"), tmp_path)
    assert left_over() == []


def test_what_has_no_such_form_is_refused_with_those_it_has(train: Train, tmp_path: Path) -> None:
    bundle = train()
    with pytest.raises(InvalidRequest, match="cannot be exported as onnx") as caught:
        export(wish(bundle, "onnx"), tmp_path)
    assert "gguf, peft, safetensors" in caught.value.remedy
    with pytest.raises(InvalidRequest, match="f32 only"):
        export(wish(bundle, "peft", "q8_0"), tmp_path)
    with pytest.raises(NotFound):
        export(wish("0" * 64, "peft"), tmp_path)
    manifest = exporting.read_manifest(bundle_folder(bundle))
    with pytest.raises(InvalidRequest, match="no adapter in PEFT's format"):
        load(wish(bundle, "peft"), manifest.model_copy(update={"files": {}}))


def saved(folder: Path, config: Any) -> Any:
    """The tiny base with an adapter of any kind, saved by PEFT and attached as exports do."""
    adapted = get_peft_model(load_base("tiny", "fp32").model, config)
    chance = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=chance) * 0.2
    adapted.save_pretrained(folder)
    return text.attached(load_base("tiny", "fp32"), folder)


KINDS = {
    "dora": LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True),
    "rslora": LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_rslora=True),
    "ia3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "vera": VeraConfig(r=4, target_modules=["q_proj"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_merged_by_peft(tiny: str, tmp_path: Path, kind: str) -> None:
    model, ids = saved(tmp_path, KINDS[kind]), torch.tensor([[1, 5, 9, 13]])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        plain = text.merged(model)
        after, bare = plain(input_ids=ids).logits, load_base("tiny", "fp32").model(input_ids=ids).logits
    assert (after - before).abs().max() < 1e-4 < (after - bare).abs().max()
    assert not [name for name in plain.state_dict() if "lora" in name or "vera" in name or "ia3" in name]


@pytest.mark.filterwarnings("ignore")  # PEFT's own about tied layers
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_tied_head_that_is_changed_is_not_merged(tiny: str, tmp_path: Path, target: str) -> None:
    model = saved(tmp_path, LoraConfig(r=4, target_modules=["q_proj", target]))
    with pytest.raises(InvalidRequest, match="shares its weights"):
        text.merged(model)


def test_what_peft_cannot_merge_is_refused(tiny: str, tmp_path: Path) -> None:
    model = saved(tmp_path, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(InvalidRequest, match="cannot merge prompt_tuning"):
        text.merged(model)


def test_a_model_with_biases_and_a_head_of_its_own_goes_to_gguf(
    train: Train, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    folder = tmp_path / "qwen"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    second = {"id": "qwen", "sources": [{"type": "path", "path": str(folder)}]}
    tiny_catalogue(home / "catalogue.yaml", Path(str(catalogue.folder("tiny"))), None, second)
    pull.pull("qwen")
    parity = export(wish(train(base="qwen", epochs=4), "gguf", "f32"), tmp_path)
    assert parity.equal_answers == 12
