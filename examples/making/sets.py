"""The sets that `examples.make` writes: files of pictures, of speech, and of both in pairs, with a table of each.

Every picture and every recording has its own seed made of the set's kind, its seed and its number: a smaller set is the
beginning of a larger one, and no picture or recording of a pair stands in the sets that train.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from examples.dice import Dice
from examples.making.pictures import draw
from examples.making.shapes import NAMES
from examples.making.speech import SPEAKERS, UNSEEN, record
from moatelier.errors import InvalidRequest

LICENCE = "CC0-1.0"
"""Nobody's work is in them; whoever makes them may do with them what they like."""
QUESTION = "Is what is said what is shown?"
File = tuple[str, bytes]
"""A path within a set, and what stands there."""


def pictures(count: int, seed: int) -> Iterator[File]:
    """A folder for each shape, and `index.csv`: image, label, caption, licence.

    Args:
        count: How many; the shapes take turns.
        seed: Equal seeds give equal files.

    Raises:
        InvalidRequest: There are to be none.
    """
    _check(count, 1)
    rows = []
    for number in range(count):
        picture = draw(NAMES[number % len(NAMES)], Dice(f"pictures {seed} {number}"))
        path = f"{picture.label}/{number:05}.jpg"
        rows.append((path, picture.label, picture.caption, LICENCE))
        yield path, picture.jpeg()
    yield "index.csv", _table(("image", "label", "caption", "licence"), rows)


def speech(count: int, seed: int) -> Iterator[File]:
    """A folder for each word, and `index.csv`: audio, text, label, speaker, licence.

    Args:
        count: How many; each speaker says all words before the next one begins, and all speakers take turns.
        seed: Equal seeds give equal files.

    Raises:
        InvalidRequest: There are to be none.
        ModelUnavailable: espeak-ng is not installed.
    """
    _check(count, 1)
    names = tuple(SPEAKERS)
    turns = [(NAMES[n % len(NAMES)], names[n // len(NAMES) % len(names)]) for n in range(count)]
    rows = []
    for number, recording in enumerate(record(turns, f"speech {seed}")):
        path = f"{recording.text}/{number:05}.wav"
        rows.append((path, recording.text, recording.text, recording.speaker, LICENCE))
        yield path, recording.wav()
    yield "index.csv", _table(("audio", "text", "label", "speaker", "licence"), rows)


def pairs(count: int, seed: int) -> Iterator[File]:
    """Pictures with recordings by voices that speak nowhere else, and `pairs.jsonl` with a line for each.

    A line has the fields question, image, audio (paths), shown, said, answer (yes or no), caption, speaker and licence.

    Half say what is shown. Every shape is shown as often in one half as in the other, and every word is said as often:
    neither the picture alone nor the recording alone tells the answer.

    Args:
        count: How many; a multiple of twice the number of shapes.
        seed: Equal seeds give equal files.

    Raises:
        InvalidRequest: The shapes and words cannot be balanced in so many.
        ModelUnavailable: espeak-ng is not installed.
    """
    _check(count, 2 * len(NAMES))
    dice = Dice(f"pairs {seed}")
    both = _balanced(count, dice)
    recordings = record([(said, dice.pick(tuple(UNSEEN))) for _, said in both], f"pairs {seed} said")
    lines = []
    for number, ((shown, said), recording) in enumerate(zip(both, recordings, strict=True)):
        picture = draw(shown, Dice(f"pairs {seed} shown {number}"))
        image, audio = f"images/{number:05}.jpg", f"audio/{number:05}.wav"
        answer = "yes" if shown == said else "no"
        told = {"question": QUESTION, "image": image, "audio": audio, "shown": shown, "said": said, "answer": answer}
        told |= {"caption": picture.caption, "speaker": recording.speaker, "licence": LICENCE}
        lines.append(json.dumps(told) + "\n")
        yield image, picture.jpeg()
        yield audio, recording.wav()
    yield "pairs.jsonl", "".join(lines).encode()


def _balanced(count: int, dice: Dice) -> list[tuple[str, str]]:
    """What is shown and what is said, in any order: in each round every shape with its name and with another's."""
    away = dice.shuffled(range(1, len(NAMES)))
    both = []
    for turn in range(count // (2 * len(NAMES))):
        for place, shape in enumerate(NAMES):
            other = NAMES[(place + away[turn % len(away)]) % len(NAMES)]
            both += [(shape, shape), (shape, other)]
    return dice.shuffled(both)


def _check(count: int, unit: int) -> None:
    if count < 1 or count % unit:
        raise InvalidRequest(
            f"{count} cannot be made.",
            where="--count",
            remedy="Ask for one at least." if unit == 1 else f"Ask for a multiple of {unit}.",
        )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
