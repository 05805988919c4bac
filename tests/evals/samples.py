"""Made-up evidence of a whole task, as the graph hands it to the report."""

from typing import Any

import numpy as np

from evals.scorers import Answered, score
from moatelier.contracts import (
    Budget,
    Columns,
    CurationReport,
    DatasetCard,
    EvalReport,
    GateSpec,
    Goal,
    PrivateFinding,
    Sourced,
    SplitInfo,
    SplitName,
    Suspicion,
    TaskPlan,
    TrainResult,
    TrainSpec,
)

LABELS = tuple(
    "cancel_order card_declined change_address damaged_item delivery_late exchange_size gift_card invoice_copy "
    "missing_part opening_hours refund_status track_parcel".split()
)
CANDIDATE, CHAMPION = "c" * 64, "b" * 64
LOCKED = "d" * 64


def plan(target: float = 0.9, metric: str = "accuracy") -> TaskPlan:
    def user(value: Any, reason: str) -> Any:
        return Sourced(value=value, source="user", confidence=1, reason=reason)

    def default(value: Any, reason: str) -> Any:
        return Sourced(value=value, source="default", confidence=1, reason=reason)

    return TaskPlan(
        name="support-intents",
        train_file="file-1",
        modality=default("text", "The file holds text."),
        kind=Sourced(value="classification", source="inferred", confidence=0.9, reason="`intent` has 12 values."),
        columns=user(Columns(input="message", target="intent"), "“predict intent from message”"),
        goal=user(Goal(metric=metric, target=target), "“at least 90 % right”"),  # type: ignore[arg-type]  # a parameter
        budget=default(Budget(seconds=1200, trials=3), "Twenty minutes are the default."),
        method=default("lora", "The only method so far."),
        base=default("smollm2-135m-instruct", "The base of this service."),
        private=default("redact", "Private data is redacted unless you say otherwise."),
        too_long=default("refuse", "No row is cut silently."),
        notes=("On 190 locked rows, 180 have to be right to show 90 %.",),
    )


def card(rows: int = 190) -> DatasetCard:
    counts: dict[SplitName, int] = {"train": 560, "dev": 93, "select": 94, "test": rows}
    return DatasetCard(
        name="support-intents",
        source="a" * 64,
        test_source=None,
        licence="as given by the uploader",
        modality="text",
        kind="classification",
        columns=Columns(input="message", target="intent"),
        labels=LABELS,
        splits={
            name: SplitInfo(rows=count, artifact=None if name == "test" else "e" * 64) for name, count in counts.items()
        },
        locked=LOCKED,
        report=CurationReport(
            rows_read=960,
            rows_kept=937,
            exact_duplicates=18,
            near_duplicate_clusters=21,
            near_duplicates_of_test=0,
            conflicting_labels=2,
            private=(PrivateFinding(row=12, field="input", kind="EMAIL_ADDRESS", action="redacted"),),
            suspicious=tuple(
                Suspicion(row=17 + 53 * n, label=LABELS[n], likelier=LABELS[-n - 1], probability=0.97 - n / 50, loss=3)
                for n in range(5)
            ),
            dropped={n: "repeats an earlier row" for n in range(18)} | {n: "the input is empty" for n in range(30, 35)},
            reasons=("Rows that repeat an earlier one add nothing.", "Five rows have an empty message."),
            token_lengths={"mean": 34.2, "p50": 33, "p95": 52, "max": 71},
        ),
    )


def answers(rows: int = 190, right: float = 0.96, junk: float = 0.0, seed: int = 0) -> list[Answered]:
    """Answers to the same rows for every seed: true labels in turn, the given share of them right."""
    random = np.random.default_rng(seed)
    given = []
    for row in range(rows):
        truth = LABELS[row % len(LABELS)] if row % 40 else "gift_card"
        if random.random() < right:
            answer = truth
        elif random.random() < junk:
            answer = "I am happy to help with your order"
        else:
            answer = LABELS[int(random.integers(len(LABELS)))]
        given.append(Answered(truth, answer, answer in LABELS))
    return given


def eval_report(subject: str, split: SplitName, rows: list[Answered]) -> EvalReport:
    scores = score("classification", LABELS, rows)
    return EvalReport(subject=subject, split=split, rows=len(rows), kind="classification", **vars(scores))


def gate_spec(champion: str | None = None, target: float = 0.9, metric: str = "accuracy") -> GateSpec:
    return GateSpec(
        project="default",
        task="task-1",
        dataset=card().digest,
        base="smollm2-135m-instruct",
        candidate=CANDIDATE,
        champion=champion,
        goal=plan(target, metric).goal.value,
    )


def trial(bundle: str, seed: int, right: float, rate: float) -> dict[str, Any]:
    steps = np.arange(1, 106)
    noise = np.random.default_rng(seed).normal(0, 0.12, len(steps))
    losses = np.maximum(0.02, 3.4 * np.exp(-steps / (9000 * rate)) + 0.06 + noise * np.exp(-steps / 80))
    result = TrainResult(
        bundle=bundle,
        steps=105,
        epochs=3,
        seconds=64.3 + seed,
        train_loss=float(losses[-10:].mean()),
        dev_loss=0.14,
        curve=tuple((int(step), float(loss)) for step, loss in zip(steps, losses, strict=True)),
        dev_curve=((35, 0.62), (70, 0.21), (105, 0.14)),
    )
    spec = TrainSpec(method="lora", base="smollm2-135m-instruct", dataset=card().digest, suffix="s", learning_rate=rate)
    parts = {
        "spec": spec,
        "result": result,
        "dev": eval_report(bundle, "dev", answers(93, right, seed=seed)),
        "select": eval_report(bundle, "select", answers(94, right, seed=seed + 1)),
    }
    return {name: part.model_dump(mode="json") for name, part in parts.items()}


def task(status: str) -> dict[str, Any]:
    return {
        "id": "task-8f3k2m9q1c7e",
        "request": "Sort our support messages by intent, at least 90 % right, in 20 minutes <b>please</b>.",
        "status": status,
        "stopped_because": "the select rows meet the goal.",
    }
