"""The real pack, when it is on this machine: `moatelier models pull whisper-tiny.en`."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly
from whisper.decoding import DecodingOptions, DecodingTask

from moatelier.settings import settings
from modalities import catalogue
from modalities.audio.greedy import greedy, prompt_of
from modalities.audio.levels import Samples
from modalities.audio.model import AudioBase, encode, features, load_base

pytestmark = pytest.mark.slow
PACK = "whisper-tiny.en"


@pytest.fixture(scope="module")
def base() -> AudioBase:
    if not catalogue.is_pulled(PACK):
        pytest.skip(f"the pack is not here; run `moatelier models pull {PACK}`")
    return load_base(PACK, "fp32")


@pytest.fixture(scope="module")
def digits() -> list[tuple[str, Samples]]:
    folder = settings().bench_data or Path(__file__).resolve().parents[3].parent / "shared" / "data"
    if not (folder / "spoken-digits").is_dir():
        pytest.skip("there is no spoken-digits in MOATELIER_BENCH_DATA")
    rows = list(csv.DictReader((folder / "spoken-digits" / "index.csv").read_text().splitlines()))[::100]
    sounds = [soundfile.read(folder / "spoken-digits" / row["file"], dtype="float32")[0] for row in rows]
    return [
        (row["text"], resample_poly(sound, 2, 1).astype(np.float32)) for row, sound in zip(rows, sounds, strict=True)
    ]


def test_it_has_the_size_the_catalogue_says(base: AudioBase) -> None:
    assert sum(weight.numel() for weight in base.model.parameters()) == catalogue.get(PACK).parameters
    assert (3, 4) in base.config.alignment_heads and not base.config.multilingual


@pytest.mark.parametrize("window", [30.0, 3.0])
def test_real_words_are_decoded_as_whisper_decodes_them(
    base: AudioBase, digits: list[tuple[str, Samples]], window: float
) -> None:
    base = base.with_window(window)
    mel = features([sound for _, sound in digits], base)
    prompts = [prompt_of(base.tokenizer)] * len(digits)
    heard = greedy(base.model, base.tokenizer, encode(mel, base), prompts, 24)
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False, sample_len=24)
    for one, found in zip(mel, heard, strict=True):
        [expected] = DecodingTask(base.model, options).run(one[None])
        assert list(found.tokens) == expected.tokens
        assert found.mean_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
        assert found.no_speech == pytest.approx(expected.no_speech_prob, abs=1e-4)
    if window == 30:
        assert any("four" in base.tokenizer.decode(list(found.tokens)).lower() for found in heard)
