"""Adapters trained straight from rows, without a task around them: for benchmarks that need many of them."""

from collections.abc import Sequence
from typing import Any

from moatelier.contracts import Columns, CurationReport, DatasetCard, SplitInfo, TrainSpec
from moatelier.job import Job
from moatelier.settings import settings
from modalities.text import data
from modalities.text.data import Row
from store import artifacts
from training.run import work

RECIPE: dict[str, Any] = {"method": "lora", "learning_rate": 1e-3, "rank": 16, "batch_rows": 16, "epochs": 4.0}


def rows_of(texts: Sequence[tuple[str, str]]) -> list[Row]:
    """(text, label) as the curator would render a classification row."""
    system = data.SYSTEM["classification"]
    return [
        Row(
            number + 1,
            (
                {"role": "system", "content": system},
                {"role": "user", "content": text},
                {"role": "assistant", "content": label},
            ),
            label,
        )
        for number, (text, label) in enumerate(texts)
    ]


def card_of(rows: Sequence[Row], dev: Sequence[Row] = ()) -> str:
    """The digest of a card whose training and dev rows these are; it has no other split."""
    card = DatasetCard(
        name="benchmark",
        source="0" * 64,
        test_source=None,
        licence="CC-BY-4.0",
        modality="text",
        kind="classification",
        columns=Columns(input="text", target="category"),
        labels=tuple(sorted({str(row.label) for row in rows})),
        splits={
            "train": SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(data.write_rows(list(rows)))),
            "dev": SplitInfo(rows=len(dev), artifact=artifacts.put_bytes(data.write_rows(list(dev))) if dev else None),
        },
        locked="0" * 64,
        report=untouched(len(rows)),
    )
    return artifacts.put_json(card)


def untouched(rows: int) -> CurationReport:
    """The report on so many rows of which nothing was left out."""
    return CurationReport(
        rows_read=rows,
        rows_kept=rows,
        exact_duplicates=0,
        near_duplicate_clusters=0,
        near_duplicates_of_test=0,
        conflicting_labels=0,
    )


def train(card: str, base: str, name: str, **changes: Any) -> str:
    """Train as `RECIPE` says, but for changes; the sealed bundle's digest."""
    spec = TrainSpec(base=base, dataset=card, suffix=name, **(RECIPE | changes))
    folder = settings().home / "jobs" / spec.digest[:32]
    return str(work(spec.model_dump(), Job(folder, quiet=True))["bundle"])
