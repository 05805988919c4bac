"""Loading a text base: precision, stop tokens, padding, and what is refused."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from moatelier.errors import IntegrityError, ModelUnavailable, NotFound
from moatelier.settings import settings
from modalities import catalogue, machine
from modalities.machine import probe_precision, set_threads
from modalities.text.config import layer_count, lora_targets, read_config, top_third
from modalities.text.model import find_stop_ids, load_base, load_tokenizer
from modalities.text.template import render


def test_a_base_knows_what_training_and_serving_share(tiny: str) -> None:
    base = load_base(tiny, "fp32")
    assert base.entry_id == tiny and base.digest == catalogue.base_digest(tiny) and len(base.template_digest) == 64
    assert base.stop_ids == (base.tokenizer.eos_token_id,)
    assert base.tokenizer.pad_token_id not in base.stop_ids
    assert base.config.layers == 6 and base.first_layer_default == 4
    assert not base.model.training and not any(weight.requires_grad for weight in base.model.parameters())
    ids = torch.tensor([render(base.tokenizer, [{"role": "user", "content": "card"}], True)], device=base.device)
    assert base.model(ids).logits.shape == (1, ids.shape[1], base.config.vocab)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_have_the_asked_precision(tiny: str, precision: Any, dtype: torch.dtype) -> None:
    base = load_base(tiny, precision)
    assert base.precision == precision and {weight.dtype for weight in base.model.parameters()} == {dtype}


def test_loading_is_repeatable_and_without_the_network(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    one, two = load_base(tiny, "fp32"), load_base(tiny, "fp32")
    pairs = zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_what_is_no_pulled_text_model_is_refused(home: Path) -> None:
    with pytest.raises(NotFound):
        load_base("no-such-model")
    with pytest.raises(ModelUnavailable, match="moatelier models pull smollm2"):
        load_base("smollm2-135m-instruct")
    with pytest.raises(ModelUnavailable, match="is a model for embedding"):
        load_base("all-minilm-l6-v2")


def test_a_changed_byte_is_refused(tiny: str) -> None:
    weights = catalogue.folder(tiny) / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()  # the cache may share the file with where it came from
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="not what was pulled"):
        load_base(tiny, "fp32")


def test_padding_is_never_a_stop_token(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"pad_token": told["eos_token"]}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id not in find_stop_ids(folder, tokenizer)
    assert tokenizer.pad_token == "<|pad|>"


def test_the_generation_config_may_name_further_stops(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1]}))
    assert find_stop_ids(folder, load_tokenizer(folder)) == (1, 2)


def test_a_template_that_does_not_end_in_a_stop_token_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(ModelUnavailable, match="does not fit its stop tokens"):
        load_tokenizer(folder)


def test_a_base_without_a_template_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelUnavailable, match="no chat template"):
        load_tokenizer(folder)


def test_files_that_do_not_load_are_a_clear_error(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelUnavailable, match="do not load") as caught:
        load_tokenizer(folder)
    assert caught.value.where == str(folder)


def test_the_probe_measures_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe_precision()
    kept = json.loads((home / "probe.json").read_text())
    (measured,) = kept.values()
    assert measured["precision"] == first and set(measured["seconds"]) == {"bf16", "fp32"}
    assert measured["seconds"][first] == min(measured["seconds"].values())
    monkeypatch.setattr(machine, "_time_product", lambda *_: pytest.fail("measured again"))
    assert probe_precision() == first


def test_a_broken_probe_file_is_measured_anew(home: Path) -> None:
    (home / "probe.json").write_text("{half")
    assert probe_precision() in ("bf16", "fp32")


def test_threads_follow_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("MOATELIER_THREADS", "1")
    settings.cache_clear()
    assert set_threads() == 1 == torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.mark.parametrize(("layers", "first"), [(30, 20), (6, 4), (32, 21), (1, 0), (2, 1), (3, 2)])
def test_the_top_third_is_rounded_up(layers: int, first: int) -> None:
    assert top_third(layers) == first


def test_the_shape_is_read_without_loading(tiny_folder: Path, tmp_path: Path) -> None:
    assert layer_count(tiny_folder) == 6
    assert read_config(tiny_folder).kv_heads == 2
    assert "q_proj" in lora_targets("llama") and "lm_head" not in lora_targets("llama")
    with pytest.raises(ModelUnavailable, match="cannot be tuned yet"):
        lora_targets("mamba")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelUnavailable, match="not a folder of a Llama-like"):
        read_config(tmp_path)
