import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples import generate
from moatelier.contracts import Columns, CurationDecision, DataFindings, SplitName
from modalities.text import data
from modalities.text.duplicates import near_clusters

FOLDER = Path(generate.__file__).parent
SUPPORT, ASSISTANT = FOLDER / "support.csv", FOLDER / "assistant.jsonl"


@pytest.fixture(scope="module")
def rows() -> list[data.Row]:
    columns = Columns(input="message", target="intent")
    return data.read_rows(SUPPORT, "support.csv", "classification", columns)


@pytest.fixture(scope="module")
def findings(rows: list[data.Row]) -> DataFindings:
    return data.find(rows)


def planted(fault: str) -> list[dict[str, Any]]:
    return [line for line in json.loads((FOLDER / "planted.json").read_text())["faults"] if line["fault"] == fault]


def test_the_generator_reproduces_every_byte() -> None:
    support, faults = generate.make_support()
    assert SUPPORT.read_bytes() == support.encode()
    assert (FOLDER / "planted.json").read_bytes() == faults.encode()
    assert ASSISTANT.read_bytes() == generate.make_assistant().encode()


def test_support_has_the_shape_it_promises() -> None:
    with SUPPORT.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["intent"] for row in rows)
    assert len(rows) >= 900 and len(counts) >= 12
    assert counts.pop(generate.RARE) == 12 and min(counts.values()) > 50
    assert len({row["ticket"] for row in rows}) == len(rows)


def test_its_columns_are_told_apart() -> None:
    profile = data.profile(SUPPORT, "support.csv", "file-1")
    best = {guess.role: guess for guess in reversed(profile.guesses)}
    assert profile.kind == "classification" and profile.encoding == "utf-8" and not profile.problems
    assert (best["input"].column, best["target"].column) == ("message", "intent")
    assert best["input"].confidence >= 0.9 and best["target"].confidence >= 0.9
    assert profile.exact_duplicates == len(planted("exact"))


def test_planted_duplicates_are_found_and_few_others(findings: DataFindings) -> None:
    assert findings.exact_duplicates == tuple(sorted(line["row"] for line in planted("exact")))
    clusters = [set(cluster) for cluster in findings.clusters]
    pairs = [{line["row"], line["of"]} for line in planted("near") + planted("exact")]
    assert all(any(pair <= cluster for cluster in clusters) for pair in pairs)
    assert len(clusters) <= len(pairs) + 2


def test_planted_private_data_is_found_and_nothing_else(findings: DataFindings) -> None:
    found = {(finding.row, finding.kind) for finding in findings.private}
    expected = {(line["row"], line["kind"]) for line in planted("private")}
    assert len(expected) >= 15 and found == expected


def test_planted_wrong_labels_are_found(findings: DataFindings, rows: list[data.Row]) -> None:
    wrong = {line["row"]: line["true"] for line in planted("wrong_label")}
    assert 0.015 <= len(wrong) / len(rows) <= 0.025
    fractions: dict[SplitName, float] = {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
    decision = CurationDecision(drop={}, fractions=fractions, reasons=())
    suspicious = data.doubt(rows, findings, decision, 0, None).suspicious
    locked = {row.number for row in data.split(rows, findings, decision, 0)["test"]}
    wrong = {row: label for row, label in wrong.items() if row not in locked}
    right = [s for s in suspicious[: len(wrong)] if wrong.get(s.row) == s.likelier]
    assert len(right) >= 0.8 * len(wrong)
    assert len(suspicious) <= 2 * len(wrong)
    assert not locked & {s.row for s in suspicious}, "nothing may be said of locked rows"


def test_the_chat_rows_are_sound_and_not_copies_of_each_other() -> None:
    assert data.profile(ASSISTANT, "assistant.jsonl", "file-2").kind == "chat"
    rows = data.read_rows(ASSISTANT, "assistant.jsonl", "chat", Columns(messages="messages"))
    assert len(rows) >= 120 and not any(row.problem for row in rows)
    turns = Counter(len(row.messages) for row in rows)
    assert turns[5] >= 10 and set(turns) == {3, 5}
    assert len(near_clusters([row.prompt for row in rows])) <= 2
