"""Encoders of pictures and recordings as ONNX, run by onnxruntime, and handed out only if they answer alike."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file

from evals import exporting
from moatelier.contracts import AdapterManifest, DatasetCard, ExportSpec, Parity
from moatelier.errors import IntegrityError, InvalidRequest, ModelUnavailable
from moatelier.job import Job
from modalities.bundle import read_manifest
from modalities.exported import export_folder
from modalities.vision import data as vision_data
from tests import sentences
from tests.evals.test_media import curated, pictures, spoken_card
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.pictures import COLOURS
from tests.modalities.vision.towers import open_clip_folder, timm_folder
from tests.serving.ears import seal_ear
from tests.serving.image_adapters import made, met
from tests.training import spoken
from training.export import audio, graphs, load, vision

__all__ = ["pulled"]
LABELS = tuple(sorted(COLOURS))


def export(bundle: str, tmp_path: Path) -> tuple[Parity, Path]:
    spec = ExportSpec(bundle=bundle, format="onnx")
    parity = exporting.work(spec.model_dump(mode="json"), Job(tmp_path / "job", quiet=True))
    return Parity.model_validate(parity), export_folder(spec)


def seen(pulled: Pulled, tmp_path: Path) -> DatasetCard:
    pulled(eyes=(timm_folder(tmp_path / "eyes"), "vision", "hf_vision"))
    return curated(vision_data, pictures, modality="vision", kind="classification", labels=LABELS)


@pytest.mark.parametrize("method", ["linear_probe", "top_blocks", "image_lora"])
def test_an_image_tower_with_its_head(pulled: Pulled, tmp_path: Path, method: str) -> None:
    card = seen(pulled, tmp_path)
    bundle = made("eyes", method, labels=LABELS, dataset=card.digest).folder.name
    parity, folder = export(bundle, tmp_path)
    assert parity.equal_answers == parity.prompts == 9 and parity.largest_difference <= 1e-3
    assert parity.reader.startswith("onnxruntime") and set(parity.files) == {"images.onnx", "inputs.json"}
    assert (parity.merge_difference is not None) == (method == "image_lora")
    told = json.loads((folder / "inputs.json").read_bytes())
    assert told["labels"] == list(LABELS) and told["pixels"]["size"] == 32
    session = onnxruntime.InferenceSession(str(folder / "images.onnx"))
    for rows in (1, 5):  # the number of images is free
        [logits] = session.run(None, {"pixels": np.zeros((rows, 3, 32, 32), np.float32)})
        assert logits.shape == (rows, 3)


def test_towers_of_images_and_words_that_met(pulled: Pulled, tmp_path: Path) -> None:
    pulled(clip=(open_clip_folder(tmp_path / "clip"), "vision", "hf_vision"))
    card = curated(vision_data, pictures, modality="vision", kind="retrieval", labels=())
    bundle = met("clip", None, dataset=card.digest, kind="retrieval").folder.name
    parity, folder = export(bundle, tmp_path)
    assert parity.equal_answers == 9 and set(parity.files) == {"images.onnx", "texts.onnx", "inputs.json"}
    assert parity.merge_difference is not None and parity.merge_difference < 1e-3
    tokens = onnxruntime.InferenceSession(str(folder / "texts.onnx")).get_inputs()[0]
    assert tokens.name == "tokens"


def test_an_embedding_model_that_met_an_image_tower(
    pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = sentences.tiny_embedding(tmp_path / "words", " ".join(LABELS))
    eyes = timm_folder(tmp_path / "eyes", "test_efficientnet")
    pulled(eyes=(eyes, "vision", "hf_vision"), words=(words, "embedding", "hf_embedding"))
    card = curated(vision_data, pictures, modality="vision", kind="retrieval", labels=())
    parity, folder = export(met("eyes", "words", dataset=card.digest, kind="retrieval").folder.name, tmp_path)
    assert parity.equal_answers == 9
    session = onnxruntime.InferenceSession(str(folder / "texts.onnx"))
    for length in (3, 7):  # so is that of texts
        [vectors] = session.run(None, {"tokens": np.full((2, length), 3, np.int64)})
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_an_encoder_with_a_head_for_recordings(pulled: Pulled, tmp_path: Path) -> None:
    spoken.pull_ears(pulled, tmp_path / "ears")
    card = spoken_card("classification")
    bundle = seal_ear("words", kind="classification", place="encoder", dataset=card.digest, labels=spoken.LABELS)
    parity, folder = export(bundle.name, tmp_path)
    assert parity.equal_answers == parity.prompts == 9
    assert set(parity.files) == {"encoder.onnx", "inputs.json"}
    assert json.loads((folder / "inputs.json").read_bytes())["labels"] == list(spoken.LABELS)


@pytest.mark.parametrize("place", ["encoder", "both"])
def test_an_encoder_below_a_decoder(pulled: Pulled, tmp_path: Path, place: Any) -> None:
    spoken.pull_ears(pulled, tmp_path / "ears")
    card = spoken_card("transcription")
    parity, folder = export(seal_ear("words", place=place, dataset=card.digest).name, tmp_path)
    assert parity.equal_answers == parity.prompts == 9
    assert (folder / "decoder.safetensors").exists() == (place == "both")
    if place == "both":
        decoder = load_file(folder / "decoder.safetensors")
        assert "blocks.0.attn.query.weight" in decoder and not [name for name in decoder if "lora" in name]


def test_a_graph_without_the_adapter_is_not_handed_out(
    pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = seen(pulled, tmp_path)
    bundle = made("eyes", "image_lora", labels=LABELS, dataset=card.digest).folder.name
    monkeypatch.setattr(vision.VisionExport, "_merged", lambda _, model, base: model.unload())
    with pytest.raises(IntegrityError, match="read by onnxruntime"):
        export(bundle, tmp_path)
    assert not export_folder(ExportSpec(bundle=bundle, format="onnx")).exists()


def test_what_torch_finds_no_graph_for_is_told(pulled: Pulled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = seen(pulled, tmp_path)
    bundle = made("eyes", "linear_probe", labels=LABELS, dataset=card.digest).folder.name

    def none(*_: Any, **__: Any) -> None:
        raise RuntimeError("no graph\nfor this")

    monkeypatch.setattr(graphs.torch.onnx, "export", none)
    with pytest.raises(InvalidRequest, match="RuntimeError: no graph"):
        export(bundle, tmp_path)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("training.export.audio", "training.export.graphs", "onnxruntime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    manifest = AdapterManifest.model_construct(modality="audio", suffix="words", files={"adapter_config.json": ""})
    with pytest.raises(ModelUnavailable, match="onnxruntime") as caught:
        load(ExportSpec(bundle="0" * 64, format="onnx"), manifest)
    assert "moatelier[export]" in caught.value.remedy


def test_a_bundle_says_which_half_is_tuned(pulled: Pulled, tmp_path: Path) -> None:
    spoken.pull_ears(pulled, tmp_path / "ears")
    folder = seal_ear("words", place="decoder")
    exporter = audio.AudioExport(ExportSpec(bundle=folder.name, format="onnx"), read_manifest(folder))
    assert exporter.size > 0
