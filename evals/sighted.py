"""Whether answers to questions about pictures rest on the pictures: beside the same model blind, and beside one answer.

The blind model is the adapter itself, shown the mean of its training pictures: what it knows from the words of the
questions alone. A picture has one question of each form, so that within a form rows are independent draws; the three
questions about one picture are not, and over all forms no interval is stated.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from evals.scorers import plain
from evals.statistics import clopper_pearson, paired_difference
from evals.verdict import percent_down, points
from moatelier.contracts import AdapterManifest, Contract, Interval, PairedComparison, TrainResult
from moatelier.errors import DataError
from modalities.imagetext.questions import QuestionRow
from serving.sampling import Sampling

BLIND, MAJORITY = "blind", "majority"
MAX_TOKENS = 24
"""Of an answer: labels are words."""


class Engine(Protocol):
    """What answers; `serving.looking.LookingEngine` does."""

    def generate(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        *,
        adapter: str | None,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
        blind: bool = False,
    ) -> list[Any]:
        """Answers in the order of the prompts, each with its `text`."""
        ...


class FormFigures(Contract):
    """The figures of one form of question, on the same rows."""

    rows: int
    seeing: Interval
    blind: Interval
    majority: Interval
    """Of the answer that is most frequent among the training rows of this form, given always."""
    against_blind: PairedComparison


class SightedReport(Contract):
    """How an image-language adapter did on held-out pictures."""

    subject: str
    """Bundle digest."""
    pictures: int
    forms: dict[str, FormFigures]
    seeing: float
    """Share of right answers over all forms."""
    blind: float
    majority: float

    @property
    def sees(self) -> tuple[str, ...]:
        """The forms whose answers beat the blind model's, at the lower bound that claims rest on."""
        return tuple(name for name, form in self.forms.items() if form.against_blind.difference.claim_low > 0)


def examine(
    engine: Engine,
    adapter: str,
    digest: str,
    rows: Sequence[QuestionRow],
    train: Sequence[QuestionRow],
    progress: Callable[[int], None] | None = None,
) -> SightedReport:
    """Ask a loaded adapter everything twice, seeing and blind.

    Args:
        engine: Has the adapter.
        adapter: Its name there.
        digest: Of its bundle.
        rows: Questions about pictures that training has not seen.
        train: Those it was trained on; they tell the most frequent answers, nothing else.
        progress: Called with the number of answers so far, of each of the two passes; may raise to stop.

    Raises:
        DataError: There are no rows, or a picture of theirs was trained on.
    """
    known = {row.pixels for row in train}
    if not rows or any(row.pixels in known for row in rows):
        raise DataError(
            "There are no rows, or some are about pictures that were trained on.",
            where=next((row.id for row in rows if row.pixels in known), "rows"),
            remedy="Ask about the pictures of another split.",
        )
    prompts, sampling = [row.prompt for row in rows], Sampling(MAX_TOKENS)

    def answers(blind: bool) -> list[str]:
        found = engine.generate(prompts, adapter=adapter, sampling=sampling, progress=progress, blind=blind)
        return [plain(answer.text) for answer in found]

    usual = _usual(train)
    right = {
        "seeing": _right(rows, answers(False)),
        BLIND: _right(rows, answers(True)),
        MAJORITY: _right(rows, [usual.get(row.form, "") for row in rows]),
    }
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.form].append(place)
    return SightedReport(
        subject=digest,
        pictures=len({row.pixels for row in rows}),
        forms={form: _figures({who: found[at] for who, found in right.items()}) for form, at in places.items()},
        **{who: float(found.mean()) for who, found in right.items()},
    )


def _right(rows: Sequence[QuestionRow], answers: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([plain(row.answer) == answer for row, answer in zip(rows, answers, strict=True)])


def _usual(train: Sequence[QuestionRow]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        counts[row.form][plain(row.answer)] += 1
    return {form: min(found, key=lambda answer: (-found[answer], answer)) for form, found in counts.items()}


def _figures(right: Mapping[str, NDArray[np.bool_]]) -> FormFigures:
    rates = {who: clopper_pearson(int(found.sum()), len(found)) for who, found in right.items()}
    compared = paired_difference(BLIND, right["seeing"], right[BLIND])
    return FormFigures(rows=len(right["seeing"]), against_blind=compared, **rates)


def card_text(report: SightedReport, manifest: AdapterManifest, result: TrainResult, train_pictures: int) -> str:
    """The adapter's model card in Markdown.

    Args:
        report: Its figures.
        manifest: Of its bundle.
        result: Of its training.
        train_pictures: How many pictures it was trained on.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=lambda share: f"{share:.1%}", percent_down=percent_down, points=points)
    template = environment.get_template("SIGHTED_CARD.md.j2")
    return template.render(
        report=report, manifest=manifest, spec=manifest.spec, result=result, train_pictures=train_pictures
    )
