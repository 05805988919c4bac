"""The tiny random Whisper, as a base and pulled."""

from pathlib import Path

import pytest
from whisper.model import Whisper
from whisper.tokenizer import get_tokenizer

from modalities.audio.config import AudioConfig
from modalities.audio.model import AudioBase
from tests.sounding import tiny_whisper


def base_of(model: Whisper) -> AudioBase:
    """A base around a model that was never on disk."""
    config = AudioConfig.model_validate(vars(model.dims))
    tokenizer = get_tokenizer(config.multilingual, num_languages=model.num_languages)
    return AudioBase(model, model, tokenizer, "tiny-whisper", "0" * 64, config, "fp32")


@pytest.fixture(scope="session")
def english() -> AudioBase:
    """Knows English alone, hears 30 s."""
    return base_of(tiny_whisper())


@pytest.fixture(scope="session")
def multilingual() -> AudioBase:
    """Knows 99 languages, hears 30 s."""
    return base_of(tiny_whisper(1, n_vocab=51865))


@pytest.fixture
def pack_folder(tmp_path: Path) -> Path:
    """A folder of files as a catalogue entry gives them to `ctranslate2_whisper`."""
    from tests.sounding import ctranslate2_bytes  # noqa: PLC0415

    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "model.bin").write_bytes(ctranslate2_bytes(tiny_whisper()))
    (folder / "config.json").write_text('{"alignment_heads": [[1, 1]]}')
    return folder
