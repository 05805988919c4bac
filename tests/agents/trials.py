"""Invented trials, cards and gate decisions."""

from typing import Any

from agents.trainer import Trial
from moatelier.contracts import (
    Columns,
    CurationReport,
    DatasetCard,
    EvalReport,
    GateDecision,
    Goal,
    Interval,
    PairedComparison,
    SplitInfo,
    SplitName,
    TrainResult,
    TrainSpec,
)


def card(rows: int = 540, mean: float = 35.0, longest: float = 80.0) -> DatasetCard:
    sizes: dict[SplitName, int] = {"train": rows, "dev": rows // 6, "select": rows // 6, "test": rows // 3}
    return DatasetCard(
        name="support",
        source="0" * 64,
        test_source=None,
        licence="unknown",
        modality="text",
        kind="classification",
        columns=Columns(input="message", target="intent"),
        labels=("a", "b"),
        splits={name: SplitInfo(rows=size, artifact="1" * 64) for name, size in sizes.items()},
        locked="2" * 64,
        report=CurationReport(
            rows_read=rows,
            rows_kept=rows,
            exact_duplicates=0,
            near_duplicate_clusters=0,
            near_duplicates_of_test=0,
            conflicting_labels=0,
            token_lengths={"mean": mean, "p50": mean, "p95": 2 * mean, "max": longest},
        ),
    )


def interval(point: float, width: float = 0.05) -> Interval:
    low, high = max(point - width, 0), min(point + width, 1)
    return Interval(point=point, low=low, high=high, claim_low=low, method="clopper-pearson")


def report(point: float, split: SplitName = "dev", **fields: Any) -> EvalReport:
    metrics = {name: interval(point) for name in ("accuracy", "macro_f1", "exact_match")}
    return EvalReport(subject="3" * 64, split=split, rows=90, kind="classification", metrics=metrics, **fields)


def result(**fields: Any) -> TrainResult:
    values: dict[str, Any] = {
        "bundle": "4" * 64,
        "steps": 100,
        "epochs": 3.0,
        "seconds": 60.0,
        "train_loss": 0.04,
        "dev_loss": 0.1,
        "curve": tuple((step, 0.04) for step in range(0, 100, 4)),
        "dev_curve": ((33, 0.2), (66, 0.12), (100, 0.1)),
    }
    return TrainResult(**values | fields)


SPEC = TrainSpec(method="lora", base="smollm2-135m-instruct", dataset="5" * 64, suffix="support")


def trial(select: float = 0.85, dev: float | EvalReport | None = None, spec: TrainSpec = SPEC, **fields: Any) -> Trial:
    on_dev = dev if isinstance(dev, EvalReport) else report(select if dev is None else dev)
    return Trial(spec=spec, result=result(**fields), dev=on_dev, select=report(select, "select"))


def gate(*, promoted: bool = True, champion: str | None = None, reached: bool = True) -> GateDecision:
    against = PairedComparison(other="base", difference=interval(0.4), p_value=0.0, wins=50, losses=1)
    return GateDecision(
        task="task-1",
        candidate="c" * 64,
        champion=champion,
        locked="2" * 64,
        look=1,
        looks_allowed=5,
        alpha=0.01,
        goal=Goal(metric="accuracy", target=0.9),
        candidate_report=report(0.95, "test"),
        base_report=report(0.3, "test"),
        champion_report=None,
        against_base=against,
        against_champion=None,
        reached=reached,
        promoted=promoted,
        reason="Reached." if reached else "Not reached.",
    )
