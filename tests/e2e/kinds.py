"""The kinds of task that the kill matrix runs: what they begin with, and what is asked at their end."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import fakes
from tests.e2e.harness import MODEST, TINY_SENTENCES

_BUDGET = "at most 1 trial, within 10 minutes"
_DOUBTED_ALONE = "the labels of texts are judged within the node: no base is asked, so there is no job"


@dataclass(frozen=True)
class Kind:
    """One kind of task on tiny models.

    Attributes:
        request: The sentence; its goal is what the random model reaches.
        file: Writes the training file into a folder.
        content: The content of the message that the finished adapter is asked.
        models: What `Service` is given, so that the base is there and the adapter enters `auto`.
        without: Stages that such a task does not have, each with the reason.
    """

    request: str
    file: Callable[[Path], Path]
    content: Callable[[], Any]
    models: Mapping[str, str]
    without: Mapping[str, str] = field(default_factory=dict)


def _texts(folder: Path) -> Path:
    return fakes.support_csv(folder / "support.csv", rows_per_intent=200)


def _pictures(folder: Path) -> Path:
    from tests import media  # noqa: PLC0415  (its libraries take seconds to import)

    return media.packed(folder / "shapes.zip", media.scenes("train/", 24, 0) | media.scenes("test/", 12, 100))


def _recordings(folder: Path) -> Path:
    from tests import media  # noqa: PLC0415  (as above)

    return media.speech(folder / "words.zip")


def _picture() -> list[dict[str, Any]]:
    from tests import media  # noqa: PLC0415  (as above)

    uri = f"data:image/png;base64,{base64.b64encode(media.scene('red', 200)).decode()}"
    return [{"type": "image_url", "image_url": {"url": uri}}]


def _recording() -> list[dict[str, Any]]:
    from tests import media  # noqa: PLC0415  (as above)

    sound = base64.b64encode(media.word("red")).decode()
    return [{"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}]


KINDS: Mapping[str, Kind] = {
    "text": Kind(
        MODEST,
        _texts,
        lambda: "where is my parcel",
        {"embedding": TINY_SENTENCES},
        {"doubting, its job enqueued": _DOUBTED_ALONE, "doubting, the base has answered": _DOUBTED_ALONE},
    ),
    "pictures": Kind(
        f"Sort these pictures by colour, at least 5 % right, {_BUDGET}.", _pictures, _picture, {"modality": "vision"}
    ),
    "recordings": Kind(
        f"Transcribe these, WER at most 95 %, {_BUDGET}.", _recordings, _recording, {"modality": "audio"}
    ),
}
