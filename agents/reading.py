"""What has been understood of a person's words so far: values with the words they rest on, and what is unclear."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from moatelier.contracts import Question

Source = Literal["user", "inferred", "default"]


@dataclass(frozen=True)
class Said:
    """One value a person gave, how sure the reading is, and why it was read so."""

    value: Any
    reason: str
    confidence: float = 1.0
    source: Source = "user"
    chosen: bool = False
    """The person answered a question with it, so it is not asked again."""


QUESTION_OF = {"metric": "goal", "target": "goal", "seconds": "budget"}
"""The question a value answers, where the two have different names."""


@dataclass(frozen=True)
class Reading:
    """What a text says. `said` and `unclear` are keyed by plan field, columns as `columns.target` and so on."""

    said: Mapping[str, Said] = field(default_factory=dict)
    unclear: Mapping[str, Question] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    """Columns that shall not be used."""
    nouns: tuple[str, ...] = ()
    """Things to predict that are named like no column."""
    notes: tuple[str, ...] = ()

    def then(self, later: "Reading") -> "Reading":
        """This reading refined by a later one: what is said later counts."""
        settled = {QUESTION_OF.get(name, name) for name in later.said} | {"request"}
        unclear = {name: question for name, question in self.unclear.items() if name not in settled}
        named = {said.value for name, said in later.said.items() if name.startswith("columns.")}
        said = {
            name: value
            for name, value in self.said.items()
            if not (name.startswith("columns.") and (value.value in later.excluded or value.value in named))
        }
        return Reading(
            said | dict(later.said),
            unclear | dict(later.unclear),
            (self.excluded - named) | later.excluded,
            () if "columns.target" in later.said else self.nouns + later.nouns,
            self.notes + tuple(note for note in later.notes if note not in self.notes),
        )

    def having(self, **said: Said) -> "Reading":
        """This reading with further values; a double underscore stands for the dot of a column's role."""
        return replace(self, said=dict(self.said) | {name.replace("__", "."): value for name, value in said.items()})


def joined(readings: Iterable[Reading]) -> Reading:
    """What several readings of one text say together."""
    whole = Reading()
    for reading in readings:
        whole = Reading(
            dict(whole.said) | dict(reading.said),
            dict(whole.unclear) | dict(reading.unclear),
            whole.excluded | reading.excluded,
            whole.nouns + reading.nouns,
            whole.notes + reading.notes,
        )
    return whole
