"""A small curated dataset and a spec for the tiny base, as curation would leave them."""

import json
from typing import Any

from moatelier.contracts import Columns, CurationReport, DatasetCard, SplitInfo, TrainSpec
from store import artifacts
from tests.fakes import INTENTS

SYSTEM = "Name the category of the message."


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """`count` classification rows, each worded differently, of uneven lengths."""
    made = []
    for number in range(start, start + count):
        intent = list(INTENTS)[number % len(INTENTS)]
        text = INTENTS[intent][number % 4] + " please" * (number % 5) + f" {number}"
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": text},
            {"role": "assistant", "content": intent},
        ]
        made.append({"id": f"{number:016x}", "row": number + 1, "messages": messages, "label": intent, "group": None})
    return made


def artifact(made: list[dict[str, Any]]) -> str:
    """Put rows where a split's rows lie; returns the artifact's digest."""
    return artifacts.put_bytes("".join(json.dumps(row) + "\n" for row in made).encode())


def dataset(train: list[dict[str, Any]], dev: list[dict[str, Any]]) -> str:
    """The digest of a card with these rows."""
    report = CurationReport(
        rows_read=len(train) + len(dev),
        rows_kept=len(train) + len(dev),
        exact_duplicates=0,
        near_duplicate_clusters=0,
        near_duplicates_of_test=0,
        conflicting_labels=0,
    )
    card = DatasetCard(
        name="support",
        source="0" * 64,
        test_source=None,
        licence="Apache-2.0",
        modality="text",
        kind="classification",
        columns=Columns(input="message", target="intent"),
        labels=tuple(sorted(INTENTS)),
        splits={
            "train": SplitInfo(rows=len(train), artifact=artifact(train)),
            "dev": SplitInfo(rows=len(dev), artifact=artifact(dev) if dev else None),
        },
        locked="0" * 64,
        report=report,
    )
    return artifacts.put_json(card)


def spec(digest: str, **changes: Any) -> TrainSpec:
    """A short training of the tiny base: 5 steps an epoch."""
    fields: dict[str, Any] = {
        "method": "lora",
        "base": "tiny",
        "dataset": digest,
        "suffix": "support",
        "rank": 4,
        "epochs": 2.0,
        "batch_rows": 6,
        "checkpoint_every": 2,
        "learning_rate": 1e-2,
        "precision": "fp32",
    }
    return TrainSpec(**fields | changes)
