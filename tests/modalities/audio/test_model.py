import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.model import LayerNorm

from moatelier.errors import IntegrityError, InvalidRequest, ModelUnavailable
from moatelier.settings import settings
from modalities import catalogue, pull
from modalities.audio.model import AudioBase, encode, features, load_base
from tests.modalities.packs import catalogue_file
from tests.sounding import speech, tiny_whisper


@pytest.fixture
def pulled(home: Path, pack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    entry: dict[str, object] = {
        "id": "tiny-whisper",
        "kind": "audio",
        "convert": "ctranslate2_whisper",
        "sources": [{"type": "path", "path": str(pack_folder)}],
    }
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "more.yaml", entry)))
    settings.cache_clear()
    pull.pull("tiny-whisper")
    return "tiny-whisper"


def test_a_pulled_pack_becomes_a_base_without_the_network(pulled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("used the network"))
    base = load_base(pulled, "fp32")
    assert base.digest == catalogue.base_digest(pulled) and base.window_s == 30 and base.precision == "fp32"
    assert not base.model.training and not any(weight.requires_grad for weight in base.model.parameters())
    assert base.model.alignment_heads.to_dense().tolist() == [[False, False], [False, True]]
    mel = torch.randn(1, 80, 3000)
    assert torch.equal(encode(mel, base), tiny_whisper().encoder(mel))


def test_bf16_holds_all_but_the_norms(pulled: str) -> None:
    base = load_base(pulled, "bf16")
    assert base.model.decoder.token_embedding.weight.dtype == torch.bfloat16
    assert all(norm.weight.dtype == torch.float32 for norm in base.model.modules() if isinstance(norm, LayerNorm))
    mel = torch.randn(1, 80, 3000)
    states, exact = encode(mel, base), tiny_whisper().encoder(mel)
    assert states.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(states.float(), exact, dim=-1).min() > 0.99


def test_damage_and_other_kinds_are_refused(pulled: str) -> None:
    with pytest.raises(ModelUnavailable, match="for text, not for audio"):
        load_base("smollm2-135m-instruct")
    folder = catalogue.folder(pulled)
    (folder / "dims.json").write_text((folder / "dims.json").read_text().replace("80", "128"))
    with pytest.raises(IntegrityError, match="not what was pulled"):
        load_base(pulled)
    pack = json.loads((folder / "pack.json").read_text())
    pack["files"]["dims.json"] = vars(catalogue.describe(folder, pulled, "")).get("files")["dims.json"].model_dump()
    (folder / "pack.json").write_text(json.dumps(pack))
    with pytest.raises(ModelUnavailable, match="do not load"):
        load_base(pulled)


def test_features_are_whispers_own(english: AudioBase) -> None:
    clips = [speech(2.0, 1), speech(1.0, 2) * 0.1]
    found = features(clips, english)
    assert found.shape == (2, 80, 3000)
    for mel, clip in zip(found, clips, strict=True):
        assert torch.equal(mel, log_mel_spectrogram(pad_or_trim(clip)))
    assert features(clips, english.with_window(3.0)).shape == (2, 80, 300)
    with pytest.raises(InvalidRequest, match=r"Clip 2 of 2 has 4\.00 s where 3 s fit"):
        features([clips[0], speech(4.0)], english.with_window(3.0))


def test_a_window_shares_the_weights_and_hears_less(english: AudioBase) -> None:
    short = english.with_window(3.0)
    assert short.model.dims.n_audio_ctx == 150 and english.model.dims.n_audio_ctx == 1500
    assert short.with_window(30).model.dims.n_audio_ctx == 1500
    own = {id(parameter) for parameter in english.model.parameters()}
    assert {id(parameter) for parameter in short.model.parameters()} == own
    assert encode(features([speech(3.0)], short), short).shape == (1, 150, 16)
    assert encode(features([speech(3.0)], english), english).shape == (1, 1500, 16)
    assert short.template_digest != english.template_digest == short.with_window(30).template_digest
    narrow = base_with(500)
    with pytest.raises(InvalidRequest, match="at most 10 s at once, not 12"):
        narrow.with_window(12.0)


def base_with(positions: int) -> AudioBase:
    from tests.modalities.audio.conftest import base_of  # noqa: PLC0415

    return base_of(tiny_whisper(n_audio_ctx=positions))


def test_an_empty_clip_is_heard_as_silence(english: AudioBase) -> None:
    short = english.with_window(1.0)
    assert torch.equal(features([np.zeros(0, np.float32)], short), features([np.zeros(9, np.float32)], short))
