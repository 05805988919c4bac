import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from modalities.text.labels import find_suspicious, out_of_fold

SUPPORT = Path(__file__).parents[2] / "examples" / "support.csv"
PLANTED = {line["row"] for line in json.loads((SUPPORT.parent / "planted.json").read_text())["faults"]}
BANKING = Path(__file__).parents[3] / "shared" / "data" / "banking77" / "train.csv"


def corrupted(path: Path, text: str, label: str) -> tuple[list[str], list[str], np.ndarray]:
    """The file's texts, its labels with 5 % of them exchanged, and which ones these are."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if path == SUPPORT:  # it has wrong labels of its own
        rows = [row for number, row in enumerate(rows, start=1) if number not in PLANTED]
    dice = np.random.default_rng(7)
    wrong = dice.random(len(rows)) < 0.05
    classes = sorted({row[label] for row in rows})
    labels = [
        str(dice.choice([c for c in classes if c != row[label]])) if bad else row[label]
        for row, bad in zip(rows, wrong, strict=True)
    ]
    return [row[text] for row in rows], labels, wrong


def test_wrong_labels_have_the_highest_loss() -> None:
    texts, labels, wrong = corrupted(SUPPORT, "message", "intent")
    assert roc_auc_score(wrong, out_of_fold(texts, labels).loss) >= 0.95


def test_the_suspicious_are_mostly_wrong_and_worst_first() -> None:
    texts, labels, wrong = corrupted(SUPPORT, "message", "intent")
    found = find_suspicious(range(len(texts)), texts, labels)
    assert [s.loss for s in found] == sorted((s.loss for s in found), reverse=True)
    hits = sum(wrong[s.row] for s in found)
    assert hits >= 0.7 * wrong.sum() and hits >= 0.6 * len(found)
    assert all(s.likelier != s.label == labels[s.row] for s in found)


def test_the_scores_do_not_depend_on_the_order_of_the_rows() -> None:
    texts, labels, _ = corrupted(SUPPORT, "message", "intent")
    texts, labels = texts[:200], labels[:200]
    once = out_of_fold(texts, labels).loss
    assert np.array_equal(once, out_of_fold(texts, labels).loss)
    assert np.array_equal(once[::-1], out_of_fold(texts[::-1], labels[::-1]).loss)


def test_a_class_of_two_rows_and_tiny_data_accuse_nobody_by_accident() -> None:
    assert find_suspicious([1, 2], ["a b", "c d"], ["x", "y"]) == ()
    texts = [f"about the lamp number {i}" for i in range(40)] + [f"send my parcel {i}" for i in range(40)]
    assert find_suspicious(range(80), texts, ["lamp"] * 40 + ["parcel"] * 40) == ()


@pytest.mark.slow
@pytest.mark.skipif(not BANKING.exists(), reason="the banking77 data of ../shared is not here")
def test_all_of_banking77_in_time() -> None:
    texts, labels, wrong = corrupted(BANKING, "text", "category")
    began = time.process_time()
    scored = out_of_fold(texts, labels)
    assert time.process_time() - began < 60
    assert roc_auc_score(wrong, scored.loss) >= 0.95
