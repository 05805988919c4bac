"""Words to sound by espeak-ng, whose library and voices the package espeakng-loader brings: no program, no sound card.

Every batch is spoken in a process of its own. The library keeps phases and noise from one word to the next, so that
only what a fresh process says is the same each time; and a crash in it ends with an error, not with the caller.
"""

import base64
import ctypes
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moatelier.errors import MoatelierError, ModelUnavailable

RATE = 22050
"""Samples a second, of all its voices."""
_SYNCHRONOUS, _DO_NOT_EXIT, _BY_CHARACTERS, _UTF8 = 2, 0x8000, 1, 1
_SPEED, _PITCH, _RANGE = 1, 3, 4
_AGAIN = "Install the package espeakng-loader again."
_RECEIVE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class Line(NamedTuple):
    """What to say and how.

    Attributes:
        text: The words.
        voice: A language and a variant of the voice, such as `en-us+f2`.
        speed: Words a minute, 80 to 450.
        pitch: 0 to 99; 50 is the voice's own.
        range: 0 to 99, how lively the pitch is; 50 is the voice's own.
    """

    text: str
    voice: str
    speed: int = 170
    pitch: int = 50
    range: int = 50


def speak(lines: Sequence[Line]) -> list[NDArray[np.int16]]:
    """Say lines, one after the other.

    Returns:
        The samples of each, at `RATE`.

    Raises:
        ModelUnavailable: The library is not installed, does not load, knows no such voice, or has crashed.
    """
    library, voices = find_library()
    told = json.dumps({"library": library, "voices": voices, "lines": lines})
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=told,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if answers and "error" in answers[-1]:
        raise MoatelierError.from_dict(answers[-1]["error"])
    if done.returncode != 0 or len(answers) != len(lines):
        raise ModelUnavailable(
            f"espeak-ng ended with {done.returncode}: {done.stderr.strip()[-300:] or 'no message'}",
            where=library,
            remedy=_AGAIN,
        )
    return [np.frombuffer(base64.b64decode(answer["samples"]), dtype="<i2") for answer in answers]


def find_library() -> tuple[str, str]:
    """Where the library and the folder of its voices lie.

    Raises:
        ModelUnavailable: They are not installed.
    """
    try:
        loader = importlib.import_module("espeakng_loader")
        library, voices = Path(loader.get_library_path()), Path(loader.get_data_path())
    except (ImportError, RuntimeError):
        raise _missing("espeakng_loader") from None
    if not library.is_file():
        raise _missing(str(library))
    return str(library), str(voices)


def _missing(where: str) -> ModelUnavailable:
    return ModelUnavailable(
        "espeak-ng, which speaks the examples, is not installed.",
        where=where,
        remedy="Run `make setup`, or `pip install -e '.[examples]'` in the environment you use.",
    )


def _speak_here(library: str, voices: str, lines: Sequence[Line]) -> Iterator[bytes]:
    """The samples of each line, 16-bit little-endian. Raises like `speak`."""
    try:
        espeak = ctypes.CDLL(library)
    except OSError as error:
        raise ModelUnavailable(f"espeak-ng does not load: {error}.", where=library, remedy=_AGAIN) from None
    heard: list[bytes] = []

    def receive(samples: int | None, count: int, _: Any) -> int:
        if samples and count > 0:
            heard.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _RECEIVE(receive)  # kept alive here as long as it may be called
    if espeak.espeak_Initialize(_SYNCHRONOUS, 0, voices.encode(), _DO_NOT_EXIT) != RATE:
        raise ModelUnavailable("espeak-ng does not find its voices.", where=voices, remedy=_AGAIN)
    espeak.espeak_SetSynthCallback(callback)
    espeak.espeak_ng_SetRandSeed(1)  # of the noise in breathy voices, which the clock seeds
    for line in lines:
        _choose(espeak, Path(voices), line)
        heard.clear()
        text = line.text.encode() + b"\0"
        espeak.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _BY_CHARACTERS, 0, _UTF8, None, None)
        espeak.espeak_Synchronize()
        yield b"".join(heard)


def _choose(espeak: ctypes.CDLL, voices: Path, line: Line) -> None:
    variant = line.voice.partition("+")[2]
    # The library takes an unknown variant for none, without a word.
    known = not variant or (voices / "voices" / "!v" / variant).is_file()
    if not known or espeak.espeak_SetVoiceByName(line.voice.encode()) != 0:
        raise ModelUnavailable(
            f"espeak-ng has no voice {line.voice!r}.",
            where=str(voices),
            remedy="Name one of its languages and variants.",
        )
    for parameter, value in ((_SPEED, line.speed), (_PITCH, line.pitch), (_RANGE, line.range)):
        espeak.espeak_SetParameter(parameter, value, 0)


def main() -> int:
    """Speak what stands in the standard input, a JSON line of answer for each: the other half of `speak`."""
    told = json.loads(sys.stdin.read())
    try:
        for samples in _speak_here(told["library"], told["voices"], [Line(*line) for line in told["lines"]]):
            print(json.dumps({"samples": base64.b64encode(samples).decode()}))
    except ModelUnavailable as error:
        print(json.dumps({"error": error.to_dict()}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
