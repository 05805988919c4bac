"""The report of a task: a folder with `index.html`, `report.json` and `MODEL_CARD.md`.

It is made from the store's records alone and holds no clock times, so writing it again gives the same bytes. Locked
rows and answers to them are not in it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from evals import ledger_page, pictures, search_page
from evals.scorers import NO_LABEL
from evals.statistics import CLAIM_ALPHA, LOOKS
from evals.verdict import METRIC_NAMES, claim_text, percent_down, points
from moatelier.contracts import (
    CANDIDATES,
    DatasetCard,
    Diagnosis,
    EvalReport,
    GateDecision,
    Interval,
    LedgerEntry,
    Leg,
    TaskPlan,
    TrainResult,
    TrainSpec,
)
from moatelier.ids import model_id
from moatelier.job import write_atomically

FEW_ROWS = 10
"""Labels with fewer locked rows than this are named in the limits."""
SHOWN = 12
"""How many suspicious rows and confusions are listed."""

STATUS = {
    "reached": ("Goal reached", "good"),
    "not_reached": ("Goal not reached", "short"),
    "failed": ("Failed", "bad"),
    "cancelled": ("Cancelled", "plain"),
    "rejected": ("Rejected", "plain"),
}


_WORDS = {
    "text": {"content": "text", "measured": "", "template": "chat template"},
    "vision": {"content": "image", "measured": "pixels of the shorter side", "template": "image transform"},
    "audio": {"content": "recording", "measured": "seconds of a recording", "template": "window"},
    "imagetext": {"content": "image", "measured": "pixels of the shorter side", "template": "chat template"},
}
"""Modality -> the words that the pages use for what it holds."""
_LIKE = {
    "text": "messages like the locked rows: same source, language and mix of labels",
    "vision": "images like the locked ones: same source, quality and mix of labels",
    "audio": "recordings like the locked ones: same kind of voices, language, microphones and noise",
    "imagetext": "such questions about images like the locked ones: same source, quality and mix of labels",
}


@dataclass(frozen=True)
class Trial:
    """One trial as the report shows it."""

    number: int
    spec: TrainSpec
    result: TrainResult
    dev: EvalReport
    select: EvalReport
    chosen: bool


def write_report(
    folder: Path,
    task: Mapping[str, Any],
    plan: TaskPlan,
    card: DatasetCard,
    trials: Sequence[Mapping[str, Any]],
    decision: GateDecision | None,
    legs: Sequence[Leg] = (),
    diagnoses: Sequence[Diagnosis] = (),
    ledger: Sequence[LedgerEntry] = (),
) -> Path:
    """Write a task's report and return the path of its page.

    Args:
        folder: Where to; made when missing. Older files of the same names are replaced.
        task: `id`, `request`, `status`, and maybe `error` (a MoatelierError's dict), `stopped_because`
            and `bases`, the table that the base was chosen by.
        plan: What was approved.
        card: The dataset.
        trials: In order; `spec`, `result`, `dev` and `select` each, as JSON.
        decision: The gate's; None when the task ended before it.
        legs: Of a search: all that ran, oldest first.
        diagnoses: What was found of the trials, in order.
        ledger: What was done about it, and what that brought.

    Raises:
        ResourceExhausted: The disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = _context(task, plan, card, trials, decision) | search_page.shown(
        legs, trials, decision, plan.goal.value.metric
    )
    shown |= ledger_page.shown(diagnoses, ledger)
    environment = _environment()
    for name in ("index.html", "MODEL_CARD.md"):
        write_atomically(folder / name, environment.get_template(f"{name}.j2").render(shown).encode())
    record = {
        "task": dict(task),
        "plan": plan.model_dump(mode="json"),
        "dataset": card.model_dump(mode="json"),
        "trials": [dict(trial) for trial in trials],
        "decision": decision and decision.model_dump(mode="json"),
        **({"search": [leg.model_dump(mode="json") for leg in legs]} if legs else {}),
        **ledger_page.record(diagnoses, ledger),
    }
    write_atomically(folder / "report.json", json.dumps(record, indent=1, ensure_ascii=False).encode())
    return folder / "index.html"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=lambda share: f"{share:.1%}", percent_down=percent_down, points=points, duration=_duration
    )
    return environment


def _context(
    task: Mapping[str, Any],
    plan: TaskPlan,
    card: DatasetCard,
    trials: Sequence[Mapping[str, Any]],
    decision: GateDecision | None,
) -> dict[str, Any]:
    runs = [_trial(number, trial, decision) for number, trial in enumerate(trials, start=1)]
    heading, tone = STATUS.get(task["status"], (str(task["status"]).replace("_", " ").capitalize(), "plain"))
    goal = plan.goal.value
    return {
        "task": {"error": None, "stopped_because": "", "bases": [], **task},
        "heading": heading,
        "tone": tone,
        "plan": plan,
        "fields": _plan_fields(plan),
        "goal": goal,
        "metric": METRIC_NAMES[goal.metric],
        "card": card,
        "dropped": Counter(card.report.dropped.values()).most_common(),
        "suspicious": card.report.suspicious[:SHOWN],
        "trials": runs,
        "decision": decision,
        "subject": decision and model_id(plan.base.value, plan.name, decision.candidate),
        "chosen": next((run for run in runs if run.chosen), None),
        "claim": decision and claim_text(goal, decision.candidate_report),
        "confusions": _confusions(decision),
        "found": _found(decision) if card.kind == "retrieval" else [],
        "speakers": decision.candidate_report.per_class if decision and card.kind == "transcription" else {},
        **_WORDS.get(card.modality, _WORDS["text"]),
        "limits": _limits(card, decision),
        "confidence": f"{1 - CLAIM_ALPHA:.0%}",
        "looks": LOOKS,
        "pictures": _pictures(runs, decision),
    }


def _trial(number: int, trial: Mapping[str, Any], decision: GateDecision | None) -> Trial:
    result = TrainResult.model_validate(trial["result"])
    return Trial(
        number=number,
        spec=TrainSpec.model_validate(trial["spec"]),
        result=result,
        dev=EvalReport.model_validate(trial["dev"]),
        select=EvalReport.model_validate(trial["select"]),
        chosen=decision is not None and decision.candidate == result.bundle,
    )


def _plan_fields(plan: TaskPlan) -> list[tuple[str, str, str, str]]:
    """(field, value, source, reason) of every plan field that has a provenance."""
    goal, budget, columns = plan.goal.value, plan.budget.value, plan.columns.value
    named = [f"{role}: {column}" for role, column in columns.model_dump().items() if column]
    values = {
        "goal": f"{METRIC_NAMES[goal.metric]} of at least {goal.target:.1%}",
        "budget": f"{_duration(budget.seconds)} of training, {budget.trials} trials",
        "columns": ", ".join(named) or "none",
        "search": search_page.told(plan.search.value),
    }
    fields = ("goal", "kind", "columns", "budget", "base", "method", "search", "private", "too_long", "modality")
    rows = []
    for name in fields:
        sourced = getattr(plan, name)
        value = values.get(name, str(sourced.value))
        rows.append((name.replace("_", " "), value, sourced.source, sourced.reason))
    return rows


def _confusions(decision: GateDecision | None) -> list[tuple[str, str, int]]:
    cells = decision.candidate_report.confusion if decision else ()
    return sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])[:SHOWN]


def _found(decision: GateDecision | None) -> list[tuple[str, dict[str, Interval]]]:
    """Who was asked to find pictures and captions, and how often each found what."""
    if decision is None:
        return []
    reports = {"base": decision.base_report, "this adapter": decision.candidate_report}
    if decision.champion_report and decision.champion != decision.candidate:
        reports["champion"] = decision.champion_report
    return [(name, told.metrics) for name, told in reports.items()]


def _pictures(trials: Sequence[Trial], decision: GateDecision | None) -> dict[str, Markup]:
    drawn = {}
    if any(len(trial.result.curve) > 1 for trial in trials):
        drawn["curves"] = pictures.curves([trial.result for trial in trials])
    if decision is not None:
        metric = decision.goal.metric
        subjects: list[tuple[str, Interval]] = [("base", decision.base_report.metrics[metric])]
        if decision.champion_report and decision.champion != decision.candidate:
            subjects.append(("champion", decision.champion_report.metrics[metric]))
        if decision.blind_report:
            subjects.append(("the words alone", decision.blind_report.metrics[metric]))
        subjects.append(("this adapter", decision.candidate_report.metrics[metric]))
        drawn["intervals"] = pictures.intervals(subjects, decision.goal.target)
        if decision.candidate_report.confusion:
            drawn["confusion"] = pictures.confusion(decision.candidate_report)
    return {name: Markup(svg) for name, svg in drawn.items()}


def _limits(card: DatasetCard, decision: GateDecision | None) -> list[str]:
    """What the figures do not say, in sentences."""
    limits = [
        f"The figures hold for {_LIKE.get(card.modality, _LIKE['text'])}. "
        "They say nothing about other ones, nor about safety, fairness or drift, which were not evaluated.",
    ]
    if card.modality == "text":
        limits.append(
            "Private data is found by patterns (addresses, numbers); names and free descriptions of people are not."
        )
    else:
        told = "what captions tell" if card.kind == "retrieval" else "what is said"
        limits.append(f"Private data is not looked for: faces, plates, voices and {told} stay as they are.")
    if card.vision:
        limits.append(
            f"What is seen is what {card.vision} sees. The questions are made of the images' labels: what is shown, "
            "whether it is this, which of two; a locked image is asked about once. It was taught nothing else to say."
        )
    if card.report.suspicious:
        limits.append(
            f"{len(card.report.suspicious)} rows have labels that a second model doubts. Locked rows are kept "
            "as they are, so wrong labels among them count against the adapter."
        )
    if card.kind == "retrieval":
        count = min(CANDIDATES, card.splits["test"].rows + card.splits["train"].rows)
        limits.append(
            f"Each picture and each caption was sought among {count}: among more of them less is found. Pictures that "
            "look the same and captions that read the same count as each other's."
        )
    if decision is None:
        return [*limits, "The task ended before the gate: nothing is claimed."]
    report = decision.candidate_report
    limits.append(
        f"The lower bound stands at {1 - decision.alpha:.0%}, so that over all {decision.looks_allowed} looks which "
        f"these locked rows allow an adapter below the goal is promoted by luck in at most 5% of cases. This was look "
        f"{decision.look}."
    )
    rare = [label for label, figures in report.per_class.items() if 0 < figures["support"] < FEW_ROWS]
    if rare:
        named = ", ".join(rare[:SHOWN]) + (f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else "")
        limits.append(f"Fewer than {FEW_ROWS} locked rows each, so their own figures say little: {named}.")
    if report.format_error_rate:
        limits.append(f"{report.format_error_rate:.1%} of the answers were none of the labels, shown as {NO_LABEL}.")
    if report.natural_stop_rate < 1:
        limits.append(f"{1 - report.natural_stop_rate:.1%} of the answers did not end by themselves and were cut.")
    return limits


def _duration(seconds: float) -> str:
    """A duration for people: 45 s, 3 min 20 s, 1 h 5 min."""
    whole = floor(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else "")
