import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moatelier.contracts import CurationDecision, DataFindings, SplitName
from moatelier.errors import DataError
from modalities.text.rows import Row
from modalities.text.splits import split_rows

OWN: dict[SplitName, float] = {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
GIVEN: dict[SplitName, float] = {"train": 0.8, "dev": 0.1, "select": 0.1}


def row(number: int, label: str | None = "a", group: str | None = None, text: str = "") -> Row:
    messages = (
        {"role": "system", "content": "s"},
        {"role": "user", "content": text or f"text {number}"},
        {"role": "assistant", "content": label or "answer"},
    )
    return Row(number, messages, label, group, "rows.csv", number + 1)


def findings(clusters: tuple[tuple[int, ...], ...] = ()) -> DataFindings:
    return DataFindings(rows=0, labels={}, clusters=clusters)


def decision(fractions: dict[SplitName, float] = OWN, **fields: object) -> CurationDecision:
    return CurationDecision.model_validate({"drop": {}, "fractions": fractions, "reasons": (), **fields})


def sizes(splits: dict[SplitName, list[Row]]) -> dict[str, int]:
    return {name: len(rows) for name, rows in splits.items()}


def test_fractions_hold_in_every_class() -> None:
    rows = [row(i, "ab"[i % 2]) for i in range(200)]
    splits = split_rows(rows, findings(), decision(), 0)
    assert sizes(splits) == {"train": 120, "dev": 20, "select": 20, "test": 40}
    assert Counter(r.label for r in splits["test"]) == {"a": 20, "b": 20}


def test_the_same_content_and_seed_give_the_same_splits_in_any_order() -> None:
    rows = [row(i, "abc"[i % 3]) for i in range(90)]
    mixed = random.Random(1).sample(rows, len(rows))
    once, again = (split_rows(r, findings(), decision(), 5) for r in (rows, mixed))
    assert {n: {r.id for r in s} for n, s in once.items()} == {n: {r.id for r in s} for n, s in again.items()}
    other = split_rows(rows, findings(), decision(), 6)
    assert {r.id for r in other["test"]} != {r.id for r in once["test"]}


def test_clusters_and_groups_stay_together() -> None:
    rows = [row(i, "ab"[i % 2], group=f"g{i // 3}" if i < 60 else None) for i in range(120)]
    clusters = ((2, 90, 100), (3, 91))
    splits = split_rows(rows, findings(clusters), decision(), 0)
    where = {r.number: name for name, found in splits.items() for r in found}
    assert len(where) == 120
    for start in range(0, 60, 3):
        assert len({where[start], where[start + 1], where[start + 2]}) == 1
    assert where[2] == where[90] == where[100] and where[3] == where[91]


def test_a_rare_class_reaches_every_split() -> None:
    rows = [row(i, "common") for i in range(200)] + [row(500 + i, "rare") for i in range(5)]
    splits = split_rows(rows, findings(), decision(), 0)
    assert all(any(r.label == "rare" for r in found) for found in splits.values())


def test_a_rare_class_of_clusters_reaches_every_split() -> None:
    rows = [row(i, "common") for i in range(100)] + [row(500 + i, "rare") for i in range(12)]
    clusters = tuple((500 + i, 501 + i, 502 + i) for i in range(0, 12, 3))
    splits = split_rows(rows, findings(clusters), decision(), 0)
    assert all(any(r.label == "rare" for r in found) for found in splits.values())


def test_dropped_rows_and_rows_with_problems_are_nowhere_and_doubtful_ones_not_in_train() -> None:
    rows = [row(i) for i in range(100)]
    taken = decision(drop={3: "why"}, left_out_of_train=tuple(range(50)))
    splits = split_rows(rows, findings(), taken, 0)
    numbers = {name: {r.number for r in found} for name, found in splits.items()}
    assert 3 not in set().union(*numbers.values())
    assert not numbers["train"] & set(range(50)) and numbers["test"] & set(range(50))


def test_redaction_changes_the_prompt_and_the_id_but_not_the_label() -> None:
    rows = [row(i, "me@example.com" if i % 2 else "b", text=f"I am n{i}@example.com") for i in range(40)]
    splits = split_rows(rows, findings(), decision(redact=tuple(range(40))), 0)
    found = [r for s in splits.values() for r in s]
    assert {r.prompt for r in found} == {"I am [email]"} and {r.answer for r in found} == {"me@example.com", "b"}
    assert {r.id for r in found}.isdisjoint(r.id for r in rows)


def test_a_test_file_is_the_test_split_as_it_is() -> None:
    given_rows = [row(i, text=f"other {i} me@example.com") for i in range(7)]
    splits = split_rows([row(i) for i in range(100)], findings(), decision(GIVEN), 0, given_rows)
    assert splits["test"] == given_rows
    assert sizes(splits) == {"train": 80, "dev": 10, "select": 10, "test": 7}


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="too few or too alike to fill the split"):
        split_rows([row(1), row(2), row(3)], findings(), decision(), 0)
    with pytest.raises(DataError, match="too alike"):
        split_rows([row(i) for i in range(30)], findings((tuple(range(28)),)), decision(), 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_row_is_lost_doubled_or_parted_from_its_cluster(data: st.DataObject) -> None:
    count = data.draw(st.integers(20, 80))
    rows = [row(i, data.draw(st.sampled_from("abc"))) for i in range(count)]
    pairs = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=6))
    clusters = tuple((a, b) for a, b in pairs if a != b)
    try:
        splits = split_rows(rows, findings(clusters), decision(), data.draw(st.integers(0, 3)))
    except DataError:
        return
    where = [(r.number, name) for name, found in splits.items() for r in found]
    assert sorted(number for number, _ in where) == list(range(count))
    assert all(dict(where)[a] == dict(where)[b] for a, b in clusters)
