"""What rows are routed by."""

import numpy as np
from PIL import Image

from evals import subjects
from serving.general import SENTENCES


def test_rows_are_routed_by_their_text_or_their_file() -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "where"}, {"role": "assistant"}]
    assert subjects.subjects("text", [{"messages": chat}]) == ["where"]
    assert subjects.subjects("vision", [{"image": "a" * 64}]) == ["a" * 64]
    assert subjects.subjects("audio", [{"audio": "b" * 64}]) == ["b" * 64]


def test_what_belongs_to_nobody_is_always_the_same_and_never_silent() -> None:
    assert subjects.nobodys("text") == SENTENCES
    pictures, again = subjects.nobodys("vision"), subjects.nobodys("vision")
    assert all(
        isinstance(one, Image.Image) and one.tobytes() == two.tobytes()
        for one, two in zip(pictures, again, strict=True)
    )
    sounds = subjects.nobodys("audio")
    assert all(one.dtype == np.float32 and 0.001 < np.abs(one).max() <= 1.5 for one in sounds)
    assert len({one.tobytes() for one in pictures}) == len(pictures) == len(sounds)
