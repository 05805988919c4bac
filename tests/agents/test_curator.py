import math
from typing import Any

import pytest

from agents.curator import decide, is_strong
from moatelier.contracts import DataFindings, PrivateFinding, RowProblem, Suspicion, TaskPlan
from moatelier.errors import DataError
from tests.agents.scenes import CHAT, planned

LABELS = {row: "abc"[row % 3] for row in range(1, 91)}


def findings(**fields: Any) -> DataFindings:
    return DataFindings(**{"rows": 90, "labels": {"a": 30, "b": 30, "c": 30}} | fields)


def private(row: int) -> PrivateFinding:
    return PrivateFinding(row=row, field="message", kind="EMAIL_ADDRESS", action="redacted")


def suspicion(row: int, odds: float = 100.0, probability: float = 0.9) -> Suspicion:
    loss = math.log(odds / probability)
    return Suspicion(row=row, label=LABELS[row], likelier="b", probability=probability, loss=loss)


PLAN = planned("92%")


def plan(words: str) -> TaskPlan:
    return planned(f"92%. {words}")


def test_clean_rows_are_kept_and_split() -> None:
    decision = decide(findings(), PLAN, False, LABELS)
    assert not decision.drop
    assert decision.fractions == {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
    assert decide(findings(), PLAN, True, LABELS).fractions == {"train": 0.8, "dev": 0.1, "select": 0.1}
    assert math.isclose(sum(decision.fractions.values()), 1)


def test_every_dropped_row_has_its_reason() -> None:
    decision = decide(
        findings(
            exact_duplicates=(3, 4),
            conflicting=(4, 5, 6),
            near_test=(7,),
            problems=(RowProblem(row=8, field="message", reason="empty", remedy="Fill it."),),
        ),
        PLAN,
        True,
        LABELS,
    )
    assert list(decision.drop) == [3, 4, 5, 6, 7, 8]
    assert "another target" in decision.drop[4]
    assert decision.drop[3] == "repeats an earlier row"
    assert "locked" in decision.drop[7]
    assert decision.drop[8] == "cannot be used: message: empty"
    assert decision.reasons[0] == "84 rows of 90 are kept."
    assert len(decision.reasons) >= 5


def test_private_data_follows_the_plan() -> None:
    found = findings(private=(private(1), private(1), private(2)), exact_duplicates=(2,))
    assert decide(found, plan("Redact private data."), False, LABELS).redact == (1,)
    rejected = decide(found, plan("Drop rows with private data."), False, LABELS)
    assert (set(rejected.drop), rejected.redact) == ({1, 2}, ())
    allowed = decide(found, plan("Private data may stay."), False, LABELS)
    assert (set(allowed.drop), allowed.redact) == ({2}, ())


def test_rows_that_are_too_long_follow_the_plan() -> None:
    found = findings(too_long=(9, 10))
    with pytest.raises(DataError) as caught:
        decide(found, PLAN, False, LABELS)
    assert caught.value.where == "row 9, 10"
    assert "drop rows that are too long" in caught.value.remedy
    assert set(decide(found, plan("Drop rows that are too long."), False, LABELS).drop) == {9, 10}
    cut = decide(found.model_copy(update={"exact_duplicates": (10,)}), plan("Truncate long rows."), False, LABELS)
    assert (set(cut.drop), cut.shorten) == ({10}, (9,))
    assert any("questions of 1 row are cut" in reason for reason in cut.reasons)


def test_a_class_that_gets_too_small_is_refused_by_name() -> None:
    rows_of_a = tuple(row for row, label in LABELS.items() if label == "a")
    with pytest.raises(DataError) as caught:
        decide(findings(exact_duplicates=rows_of_a[:26]), PLAN, False, LABELS)
    assert "a (4)" in caught.value.what
    assert caught.value.where == "column intent"
    assert decide(findings(exact_duplicates=rows_of_a[:25]), PLAN, False, LABELS)


def test_a_class_that_vanishes_is_refused_too() -> None:
    rows_of_a = tuple(row for row, label in LABELS.items() if label == "a")
    with pytest.raises(DataError, match=r"a \(0\)"):
        decide(findings(conflicting=rows_of_a), PLAN, False, LABELS)


def test_without_labels_classes_are_counted_before_cleaning() -> None:
    with pytest.raises(DataError, match=r"c \(2\)"):
        decide(findings(labels={"a": 50, "b": 38, "c": 2}), PLAN, False)
    with pytest.raises(DataError, match="same label"):
        decide(findings(labels={"a": 90}), PLAN, False)


def test_strong_suspicions_leave_training_only() -> None:
    decision = decide(
        findings(suspicious=(suspicion(1), suspicion(2, odds=5), suspicion(3, probability=0.4))), PLAN, False, LABELS
    )
    assert decision.left_out_of_train == (1,)
    assert 1 not in decision.drop


def test_few_rows_are_left_out_and_a_rare_class_keeps_its_own() -> None:
    many = tuple(suspicion(row) for row in range(1, 31))
    assert len(decide(findings(suspicious=many), PLAN, False, LABELS).left_out_of_train) == 4
    labels = {row: "a" if row <= 8 else "b" for row in range(1, 91)}
    rare = findings(labels={"a": 8, "b": 82}, suspicious=tuple(suspicion(row) for row in range(1, 5)))
    rare = rare.model_copy(update={"suspicious": tuple(s.model_copy(update={"label": "a"}) for s in rare.suspicious)})
    assert decide(rare, PLAN, False, labels).left_out_of_train == ()


def test_strength_needs_a_likely_other_label() -> None:
    assert is_strong(suspicion(1, odds=1e30))
    assert not is_strong(suspicion(1, odds=19))


def test_chat_needs_some_rows() -> None:
    chat = planned("exact match of 50%", data=CHAT)
    rows = DataFindings(rows=40, labels={})
    assert decide(rows, chat, False).fractions["train"] == 0.6
    with pytest.raises(DataError, match="9 rows of 40"):
        decide(rows.model_copy(update={"exact_duplicates": tuple(range(1, 32))}), chat, False)


def test_the_same_findings_give_the_same_decision() -> None:
    found = findings(suspicious=(suspicion(1), suspicion(2)), exact_duplicates=(5, 4))
    assert decide(found, PLAN, False, LABELS) == decide(found, PLAN, False, LABELS)
