"""From the wheel's `.pth`, or a folder of the Hub, to a folder that loads."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from moatelier.errors import IntegrityError, InvalidRequest, ModelUnavailable
from modalities.convert import hf_vision
from modalities.vision.config import ImageTransform, read_config, weights_file
from modalities.vision.convert import LITE0, rename, timm_efficientnet_lite0


@pytest.fixture(scope="module")
def state() -> "OrderedDict[str, torch.Tensor]":
    """The tensors of a random model under other names, in the same order, as the wheel has them."""
    model = timm.create_model(LITE0, pretrained=False)
    return OrderedDict((f"_other.{name}", tensor) for name, tensor in model.state_dict().items())


def convert(tmp_path: Path, content: Any) -> Path:
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    to.mkdir()
    torch.save(content, source / "any.pth")
    timm_efficientnet_lite0(source, to, None)
    return to


def test_tensors_take_the_names_of_their_places(tmp_path: Path, state: "OrderedDict[str, torch.Tensor]") -> None:
    folder = convert(tmp_path, state)
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == 247 and not any("num_batches" in name for name in weights)
    assert torch.equal(weights["conv_stem.weight"], state["_other.conv_stem.weight"])
    assert torch.equal(weights["classifier.bias"], state["_other.classifier.bias"])
    config = read_config(folder)
    assert (config.format, config.architecture, config.zero_shot) == ("timm", LITE0, False)
    assert config.transform.size == 224 and config.transform.mean[0] == pytest.approx(127 / 255)
    assert weights_file(folder, "timm").name == "model.safetensors"


def test_another_models_tensors_are_refused(tmp_path: Path, state: "OrderedDict[str, torch.Tensor]") -> None:
    few = OrderedDict(list(state.items())[:-1])
    with pytest.raises(IntegrityError, match="holds 246 tensors where 247 belong"):
        convert(tmp_path, few)
    with pytest.raises(IntegrityError, match=r"shape \[2\], not \[3\] of 'a'"):
        rename({"x": torch.zeros(2)}, {"a": torch.zeros(3)}, tmp_path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize("content", [Evil(), {"a": 3}, [1, 2]], ids=["code", "numbers", "list"])
def test_what_is_no_state_of_tensors_is_refused_unrun(
    tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IntegrityError, match="no plain state|something else"):
        convert(tmp_path, content)
    assert "code ran" not in capsys.readouterr().out


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no \.pth file"):
        timm_efficientnet_lite0(tmp_path, tmp_path, None)


OPEN_CLIP = {"model_cfg": {"vision_cfg": {"image_size": 32}}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}


PADDED = '{"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {"resize_mode": "longest"}}'


def open_clip_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"a pickle")
    save_file({"a": torch.zeros(1)}, folder / "open_clip_model.safetensors")
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")  # the same again, for transformers
    return folder


def test_a_folder_of_open_clip_is_taken_with_one_copy_of_its_weights(tmp_path: Path) -> None:
    source, to = open_clip_folder(tmp_path / "source"), tmp_path / "to"
    to.mkdir()
    hf_vision(source, to, None)
    assert {file.name for file in to.iterdir()} == {
        "open_clip_config.json",
        "tokenizer.json",
        "open_clip_model.safetensors",
    }
    config = read_config(to)
    assert config.zero_shot and config.transform == ImageTransform(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("config.json", '{"model_type": "llama"}', "not the configuration of a vision model"),
        ("config.json", "not json", "not the configuration"),
        ("open_clip_config.json", '{"model_cfg": {"vision_cfg": {"image_size": 9999}}}', "not the configuration"),
        ("open_clip_config.json", PADDED, "not the configuration"),
        ("other.json", "{}", "not a folder of a vision model"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelUnavailable, match=match):
        hf_vision(tmp_path, tmp_path, None)


def test_weights_in_pickles_only_are_refused(tmp_path: Path) -> None:
    source = open_clip_folder(tmp_path / "source")
    (source / "open_clip_model.safetensors").unlink()
    (source / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="no weights in safetensors"):
        hf_vision(source, tmp_path, None)


def test_the_transform_has_a_digest_and_bounds() -> None:
    transform = ImageTransform(size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert transform.at(128).size == 128 and transform.at(128).digest != transform.digest == transform.at(224).digest
    with pytest.raises(InvalidRequest, match="cannot be brought to 5 pixels"):
        transform.at(5)
