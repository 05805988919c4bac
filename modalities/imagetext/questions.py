"""Labelled pictures turned into questions with answers, the same for the same pictures and seed.

    what     What is shown?               cat
    whether  Is this a cat?               yes, or no, each for half of a class's pictures
    which    Is it a dog or a cat?        cat, first and second equally often

A picture's questions stay in its split, so no test picture has been seen in training.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moatelier.errors import DataError
from moatelier.ids import digest_json
from modalities.vision.rows import ImageRow

Form = Literal["what", "whether", "which"]
SYSTEM = "Answer the question about the picture."
YES, NO = "yes", "no"


@dataclass(frozen=True)
class QuestionRow:
    """A question about a picture.

    Attributes:
        number: Of the row among those of its split, from 1.
        image: Digest of the artifact with the encoded image.
        pixels: Digest of what is seen.
        form: Which kind of question it is.
        question: In words.
        answer: In words.
        label: The picture's class.
        group: As the picture's row has it.
    """

    number: int
    image: str
    pixels: str
    form: Form
    question: str
    answer: str
    label: str
    group: str | None = None

    @property
    def id(self) -> str:
        """16 hex digits: equal content has equal ids."""
        return digest_json([self.pixels, self.question, self.answer])[:16]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The row as a conversation; `picture` says where the picture stands."""
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": self.question, "picture": True},
            {"role": "assistant", "content": self.answer},
        ]

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The question as engines take it."""
        picture = {"type": "image", "artifact": self.image}
        return [{"role": "user", "content": [picture, {"type": "text", "text": self.question}]}]


def ask(rows: Sequence[ImageRow], labels: Sequence[str], seed: int = 0, *, held_out: bool = False) -> list[QuestionRow]:
    """One question of each form about each picture.

    Args:
        rows: Of one split, with labels.
        labels: All classes; what is asked about but not shown is drawn from them.
        seed: Another one asks otherwise.
        held_out: One question about each picture, the forms in turn: rows that claims rest on are independent draws.

    Raises:
        DataError: There are fewer than two classes, or a row's label is none of them.
    """
    if len(set(labels)) < 2:
        raise DataError("Questions need two classes.", where="labels", remedy="Add pictures of another class.")
    turns: dict[tuple[Form, str], int] = defaultdict(int)
    asked = []
    for place, row in enumerate(sorted(rows, key=lambda row: (row.label or "", digest_json([seed, row.id])))):
        if row.label is None or row.label not in labels:
            raise DataError(
                f"The label {row.label!r} is none of the classes.",
                where=row.place or f"row {row.number}",
                remedy="Curate the data again.",
            )
        chance = random.Random(f"{seed}/{row.id}")
        forms = list(FORMS.items())
        for form, make in forms[place % len(forms) :][:1] if held_out else forms:
            other = chance.choice([label for label in labels if label != row.label])
            question, answer = make(words(row.label), words(other), turns[form, row.label] % 2 == 0)
            turns[form, row.label] += 1
            asked.append((row, form, question, answer))
    ordered = sorted(asked, key=lambda one: (one[0].number, one[1]))
    return [
        QuestionRow(number, row.image, row.pixels, form, question, answer, str(row.label), row.group)
        for number, (row, form, question, answer) in enumerate(ordered, start=1)
    ]


def words(label: str) -> str:
    """A label as it is said."""
    return label.replace("_", " ").strip()


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def _what(shown: str, other: str, turn: bool) -> tuple[str, str]:
    return "What is shown?", shown


def _whether(shown: str, other: str, turn: bool) -> tuple[str, str]:
    return f"Is this {_with_article(shown if turn else other)}?", YES if turn else NO


def _which(shown: str, other: str, turn: bool) -> tuple[str, str]:
    first, second = (shown, other) if turn else (other, shown)
    return f"Is it {_with_article(first)} or {_with_article(second)}?", shown


FORMS: Mapping[Form, Callable[[str, str, bool], tuple[str, str]]] = {
    "what": _what,
    "whether": _whether,
    "which": _which,
}
