"""Recordings in curation: rows, the window that fits them, and what the base makes of their transcripts.

A `modalities.curating.Curating`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moatelier.contracts import (
    AudioColumns,
    AudioFindings,
    AudioGoal,
    CurationDecision,
    CurationReport,
    DataFindings,
    SplitName,
    TaskPlan,
)
from modalities.audio import data
from modalities.audio.rows import AudioRow
from modalities.audio.sound import media
from modalities.curating import Material, Told, Watch
from modalities.halves import Half, half_of, parts_of, read_parts
from modalities.splits import is_kept

HEARD_S = 3000.0
"""Of so many seconds of windows the base tells how likely their transcripts are: it takes about a minute on two
cores. Of more data it hears a part, evenly taken."""


def read(path: Path, name: str, plan: TaskPlan, half: Half, watch: Watch) -> list[AudioRow]:
    """The rows of a folder, zip or table; each recording is kept as an artifact."""
    columns = plan.columns.value
    chosen = columns if isinstance(columns, AudioColumns) else None
    goal: AudioGoal = "transcript" if plan.kind.value == "transcription" else "label"

    def one(part: str | None) -> list[AudioRow]:
        return data.read_rows(path, name, goal, chosen, part=part, watch=watch)

    return read_parts(one, half_of(parts_of(path, name, media()), half))


def check(material: Material) -> None:
    """See `modalities.audio.checks.check`."""
    data.check(material.rows, material.test_rows)


def needs(material: Material) -> tuple[str, ...]:
    """None: the base is enough."""
    return ()


def probing(material: Material) -> Told:
    """The window that they shall be heard in, and what is to be told of them."""
    return {"window_s": window(material.rows), "kind": material.plan.kind.value}


def preflight(material: Material) -> float:
    """1: all are heard in one window."""
    return 1.0


def window(rows: Sequence[AudioRow]) -> float:
    """The window that fits these rows, in seconds."""
    heard = [row.hearing for row in rows if row.hearing is not None]
    return data.fit_window([hearing.inner_s for hearing in heard if not hearing.silent])


def questions(material: Material) -> Told | None:
    """How long the transcripts are in tokens, and how likely the base finds them for their recordings."""
    told = [row for row in material.rows if row.problem is None and row.text]
    if not told:
        return None
    window_s = window(material.rows)
    step = max(1.0, len(told) * window_s / HEARD_S)
    heard = [told[int(place * step)] for place in range(int(len(told) / step))]
    return {
        "modality": "audio",
        "base": material.plan.base.value,
        "window_s": window_s,
        "texts": sorted({str(row.text) for row in told}),
        "rows": [[row.number, row.audio, row.text] for row in heard],
    }


def find(material: Material, told: Told | None) -> AudioFindings:
    """See `modalities.audio.checks.find`."""
    if told is None:
        return data.find(material.rows, test_rows=material.test_rows)
    tokens, likelihoods = told["tokens"], {int(row): found for row, found in told["likelihoods"]}
    return data.find(
        material.rows,
        test_rows=material.test_rows,
        count_tokens=lambda text: int(tokens[text]),
        likelihood=lambda row: likelihoods.get(row.number),
    )


def doubts(material: Material, findings: AudioFindings, decision: CurationDecision) -> Told | None:
    """None: what is said was looked into before, and labels of recordings are not doubted."""
    return None


def doubt(material: Material, findings: AudioFindings, decision: CurationDecision, told: Told | None) -> DataFindings:
    """The findings as they are."""
    return findings


def split(material: Material, findings: AudioFindings, decision: CurationDecision) -> dict[SplitName, list[AudioRow]]:
    """See `data.split`."""
    return data.split(material.rows, findings, decision, material.plan.seed, material.test_rows)


def report(
    material: Material, findings: AudioFindings, decision: CurationDecision, train: Sequence[AudioRow]
) -> CurationReport:
    """With the recordings' lengths, and whether the test hears voices that were trained on."""
    measures = {name: found for name, found in findings.seconds.items() if name != "total"}
    reasons = (*decision.reasons, _voices(material, findings, decision, train))
    return data.report(findings, decision, {}).model_copy(update={"measures": measures, "reasons": reasons})


def _voices(material: Material, findings: AudioFindings, decision: CurationDecision, train: Sequence[AudioRow]) -> str:
    if not findings.speakers:
        return "Nothing says who speaks: the locked test may hold voices that were trained on."
    if material.test_rows is not None:
        heard = {row.speaker for row in material.test_rows if row.speaker}
        known = sorted({str(row.speaker) for row in train if row.speaker in heard})
        told = f"{len(known)} of the {len(heard)} speakers of the locked test" if known else "Nobody in the locked test"
        return f"{told} {'speak' if len(known) > 1 else 'speaks'} in training{' too' if known else ''}."
    apart = data.kept_apart([row for row in material.rows if is_kept(row, decision)], findings)
    return {
        "all": "Every split has speakers of its own.",
        "test": "Who speaks in the locked test speaks nowhere else; dev and select have voices that are trained on, "
        "and their scores flatter.",
        "none": "There are too few speakers to keep any for the test: it has voices that were trained on.",
    }[apart]


def card_fields(material: Material, findings: AudioFindings) -> dict[str, Any]:
    """The window that they shall be heard in."""
    return {"window_s": findings.window_s}
