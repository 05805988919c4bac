"""What diagnosis reads of dev rows beside the scores: losses, how sure the answers were, their form and their content.

The evaluation of dev rows keeps them with the answers in one artifact (`keep`); a graph reads them for the evaluator
(`read`). Nothing of the kind is kept of select or locked rows. Imports no torch.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evals.answered import Answered
from evals.rows import EvalRow
from evals.scorers import NO_LABEL, plain
from moatelier.contracts import DatasetCard, DevRow, EvalReport
from moatelier.ids import canonical_json
from store import artifacts

_WORD = re.compile(r"[^\W_]+")
MOSTLY = 0.5
"""Expected answers have a form where more than this share of them has it."""
Measured = tuple[float, int] | None
"""The loss of an answer in nats and its tokens, see `evals.loss`."""


def keep(
    card: DatasetCard,
    rows: Sequence[EvalRow],
    answered: Sequence[Answered],
    expected: Sequence[Measured] = (),
    sure: Sequence[float | None] = (),
) -> str:
    """Keep the answers as an artifact of JSON lines; `label` is what the answer was taken for."""
    labels = set(map(plain, card.labels))
    lines = []
    for place, (row, given) in enumerate(zip(rows, answered, strict=True)):
        label = None
        if card.kind == "classification":
            label = text if (text := plain(given.answer)) in labels else NO_LABEL
        line = {"id": row.id, "truth": row.truth, "answer": given.answer, "label": label, "stopped": given.stopped}
        known = expected[place] if place < len(expected) else None
        if known is not None:
            line |= {"loss": round(known[0], 6), "tokens": known[1]}
        if place < len(sure) and sure[place] is not None:
            line["sure"] = round(sure[place] or 0.0, 6)
        lines.append(canonical_json(line) + b"\n")
    return artifacts.put_bytes(b"".join(lines))


def read(report: EvalReport, card: DatasetCard) -> tuple[DevRow, ...]:
    """The rows of a report on dev rows; none where it keeps no answers."""
    if report.predictions is None or report.kind in ("preference", "thumbs", "retrieval", "transcription"):
        return ()
    lines = [json.loads(line) for line in artifacts.get_bytes(report.predictions).split(b"\n") if line]
    labels = tuple(map(plain, card.labels)) if report.kind == "classification" else ()
    structured = not labels and mostly_json([line["truth"] for line in lines])
    return tuple(_row(line, labels, structured) for line in lines)


def malformed(card: DatasetCard) -> tuple[int, ...]:
    """Numbers of the training rows whose answer has another form than most: no label, or no JSON among JSON."""
    info = card.splits.get("train")
    if card.modality != "text" or card.kind not in ("classification", "chat") or not (info and info.artifact):
        return ()
    rows = [json.loads(line) for line in artifacts.get_bytes(info.artifact).split(b"\n") if line]
    answers = [row["messages"][-1]["content"] for row in rows]
    labels = set(map(plain, card.labels)) if card.kind == "classification" else set()
    formed = [plain(answer) in labels if labels else _parsed(answer) is not None for answer in answers]
    if not labels and not mostly_json(answers):
        return ()
    return tuple(sorted(row["row"] for row, well in zip(rows, formed, strict=True) if not well))


def mostly_json(answers: Sequence[str]) -> bool:
    """Whether most of these answers are JSON objects or lists."""
    return sum(_parsed(answer) is not None for answer in answers) > MOSTLY * max(len(answers), 1)


def _row(line: Mapping[str, Any], labels: Sequence[str], structured: bool) -> DevRow:
    truth, answer = plain(line["truth"]), plain(line["answer"])
    formed, meant = True, answer == truth
    if labels:
        formed = answer in labels
        meant = meant or (not formed and _names_alone(answer, truth, labels))
    elif structured:
        formed = _parsed(line["answer"]) is not None
        meant = meant or _same_content(line["answer"], line["truth"])
    return DevRow(
        id=line["id"],
        truth=truth,
        answer=line["label"] or answer,
        right=answer == truth,
        formed=formed,
        meant=meant,
        stopped=line["stopped"],
        loss=line.get("loss"),
        tokens=line.get("tokens", 0),
        sure=line.get("sure"),
    )


def _words(text: str) -> str:
    """A text's words between single blanks, so that a label's words can be found in it."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _names_alone(answer: str, truth: str, labels: Sequence[str]) -> bool:
    """Whether the answer names the true label among other words, and no other label that is not part of it."""
    said = _words(answer)
    named = [label for label in labels if (spoken := _words(label)).strip() and spoken in said]
    return truth in named and all(_words(other) in _words(truth) for other in named)


def _parsed(text: str) -> Any:
    """JSON objects and lists; None for all else."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _same_content(answer: str, truth: str) -> bool:
    """Whether the same names and values are there in the same order, whatever stands between them."""
    wanted = _words(truth).split()
    return bool(wanted) and wanted == _words(answer).split()
