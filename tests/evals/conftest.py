"""A curated dataset with locked rows, and adapters of the tiny base trained on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from evals import vault
from moatelier.contracts import Columns, CurationReport, DatasetCard, SplitInfo, SplitName, TrainSpec
from moatelier.job import Job
from moatelier.settings import settings
from modalities.text import data
from store import artifacts
from tests.fakes import INTENTS


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_THREADS", "1")
    settings.cache_clear()


def made_rows(count: int, start: int = 0) -> list[data.Row]:
    rows = []
    for number in range(start, start + count):
        intent = list(INTENTS)[number % len(INTENTS)]
        text = f"{INTENTS[intent][number % 4]}, number {number}" + " please" * (number % 5)
        messages = (
            {"role": "system", "content": data.SYSTEM["classification"]},
            {"role": "user", "content": text},
            {"role": "assistant", "content": intent},
        )
        rows.append(data.Row(number + 1, messages, intent))
    return rows


@dataclass(frozen=True)
class Curated:
    card: DatasetCard
    digest: str
    locked: list[data.Row]


@pytest.fixture
def curated(tiny: str) -> Curated:
    """45 rows to train on, 12 dev, 9 select, 80 locked in the vault."""
    parts: dict[SplitName, list[data.Row]] = {
        "train": made_rows(45),
        "dev": made_rows(12, 100),
        "select": made_rows(9, 200),
        "test": made_rows(80, 300),
    }
    splits = {
        name: SplitInfo(rows=len(rows), artifact=None if name == "test" else artifacts.put_bytes(data.write_rows(rows)))
        for name, rows in parts.items()
    }
    locked = data.locked_digest(parts["test"])
    vault.lock(data.write_rows(parts["test"]), locked)
    counts = dict.fromkeys(
        ["exact_duplicates", "near_duplicate_clusters", "near_duplicates_of_test", "conflicting_labels"], 0
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
        splits=splits,
        locked=locked,
        report=CurationReport(rows_read=146, rows_kept=146, **counts),
    )
    return Curated(card, artifacts.put_json(card), parts["test"])


Train = Callable[..., str]


@pytest.fixture
def train(curated: Curated, tmp_path: Path) -> Train:
    """Trains an adapter of the tiny base: `train(seed=1)`; returns the bundle's digest."""
    from training import run as training  # noqa: PLC0415  (imports torch; most tests do without)

    def make(**changes: object) -> str:
        fields: dict[str, object] = {
            "method": "lora",
            "base": "tiny",
            "dataset": curated.digest,
            "suffix": "support",
            "epochs": 1,
            "rank": 8,
            "learning_rate": 2e-2,
            "precision": "fp32",
        }
        spec = TrainSpec.model_validate(fields | changes)
        result = training.work(spec.model_dump(mode="json"), Job(tmp_path / f"train-{spec.digest[:8]}", quiet=True))
        return str(result["bundle"])

    return make
