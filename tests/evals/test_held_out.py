"""Which rows a recipe is asked: fresh ones, the locked ones only after a look that is written down."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from evals import vault
from evals.held_out import locked_questions, open_questions
from moatelier.contracts import Columns, CurationReport, DatasetCard, MixtureSpec, SplitInfo, SplitName
from moatelier.errors import DataError, LooksExhausted, NotFound
from modalities.text import data
from store import artifacts, datasets, looks
from tests.evals.conftest import made_rows

pytestmark = pytest.mark.usefixtures("home")
COUNTS = dict.fromkeys(
    ["exact_duplicates", "near_duplicate_clusters", "near_duplicates_of_test", "conflicting_labels"], 0
)


def lengths(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def dataset(name: str, splits: dict[SplitName, list[data.Row]]) -> tuple[str, DatasetCard]:
    test = splits.get("test", [])
    locked = data.locked_digest(test)
    vault.lock(data.write_rows(test), locked)
    infos = {
        split: SplitInfo(
            rows=len(rows), artifact=None if split == "test" else artifacts.put_bytes(data.write_rows(rows))
        )
        for split, rows in splits.items()
    }
    card = DatasetCard(
        name=name,
        source="0" * 64,
        test_source=None,
        licence="Apache-2.0",
        modality="text",
        kind="classification",
        columns=Columns(input="message", target="intent"),
        labels=("parcel", "refund", "broken"),
        splits=infos,
        locked=locked,
        report=CurationReport(rows_read=1, rows_kept=1, **COUNTS),
    )
    return artifacts.put_json(card), card


def spec(*datasets: str, task: str = "task-1", seen: Sequence[str] = (), rows: int | None = None) -> MixtureSpec:
    return MixtureSpec(
        project="p",
        task=task,
        name="panel",
        recipe="a" * 64,
        datasets=datasets,
        seen=tuple(seen),
        split="test",
        rows=rows,
    )


def test_locked_rows_are_read_after_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    digest, card = dataset("support", {"train": made_rows(30), "test": made_rows(12, 300)})
    opened, open_locked = [], vault.open_locked

    def watched(locked: str) -> bytes:
        opened.append(looks.looks_taken("p", locked))
        return open_locked(locked)

    monkeypatch.setattr(vault, "open_locked", watched)
    asked = locked_questions(spec(digest), lengths)
    assert opened == [1] and [look.number for look in asked.looks] == [1]
    assert sorted(question.id for question in asked.questions) == sorted(row.id for row in made_rows(12, 300))
    assert asked.questions[0].max_tokens == 1 + 2 and asked.left_out == 0
    assert locked_questions(spec(digest), lengths) == asked, "a restarted job takes no second look"
    assert looks.looks_taken("p", card.locked) == 1


def test_rows_that_an_adapter_was_trained_on_are_left_out() -> None:
    digest, _ = dataset("support", {"train": made_rows(30), "test": made_rows(12, 300)})
    other, _ = dataset("same file, other seed", {"train": made_rows(5, 300), "dev": made_rows(1, 305), "test": []})
    asked = locked_questions(spec(digest, seen=[digest, other, "9" * 64]), lengths)
    assert len(asked.questions) == 6 and asked.left_out == 6
    with pytest.raises(DataError, match="no row left"):
        grown, _ = dataset("grown", {"train": made_rows(12, 300), "test": []})
        locked_questions(spec(digest, seen=[grown]), lengths)


def test_a_picture_that_was_trained_on_is_seen_whatever_is_asked_about_it() -> None:
    def row(number: int, question: str, picture: str) -> data.Row:
        parts: Any = [{"type": "text", "text": question}, {"type": "image", "artifact": picture}]
        turns = ({"role": "user", "content": parts}, {"role": "assistant", "content": "yes"})
        return data.Row(number, turns, None)

    digest, _ = dataset("pairs", {"test": [row(1, "A cat?", "a" * 64), row(2, "A dog?", "b" * 64)]})
    line = {"id": "1" * 16, "image": "a" * 64, "label": "cat", "caption": None, "group": None}
    trained, _ = dataset("cats", {"test": []})
    card = datasets.get_card(trained)
    info = SplitInfo(rows=1, artifact=artifacts.put_bytes(json.dumps(line).encode()))
    seen = artifacts.put_json(card.model_copy(update={"splits": {"train": info}}))
    asked = locked_questions(spec(digest, seen=[seen]), lengths)
    assert len(asked.questions) == asked.left_out == 1


def test_the_rows_an_aggregator_was_made_of_are_left_out_too() -> None:
    """Its own rows hold the proposers' answers, so their ids differ; their group is the row they were made of."""
    digest, _ = dataset("support", {"test": made_rows(4, 300)})
    taught = data.Row(1, ({"role": "user", "content": "asked"},), None, made_rows(1, 300)[0].id)
    made, _ = dataset("made", {"train": [taught], "test": []})
    assert locked_questions(spec(digest, seen=[made]), lengths).left_out == 1


def test_several_datasets_are_pooled_and_no_look_is_spent_when_one_is_exhausted() -> None:
    first, one = dataset("first", {"test": made_rows(6, 300)})
    second, two = dataset("second", {"test": made_rows(6, 400)})
    assert len(locked_questions(spec(first, second), lengths).questions) == 12
    for number in range(4):
        looks.take_look("p", two.locked, f"task-{number + 7}", "c" * 64)
    with pytest.raises(LooksExhausted):
        locked_questions(spec(first, second, task="task-2"), lengths)
    assert looks.looks_taken("p", one.locked) == 1


def test_a_missing_set_costs_no_look() -> None:
    digest, card = dataset("support", {"test": made_rows(6, 300)})
    lost, other = dataset("lost", {"test": made_rows(6, 400)})
    vault._place(other.locked).unlink()
    with pytest.raises(NotFound, match="not in the vault"):
        locked_questions(spec(digest, lost), lengths)
    assert looks.looks_taken("p", card.locked) == 0


def test_select_rows_need_no_look_and_a_smaller_number_is_evenly_taken() -> None:
    digest, card = dataset("support", {"train": made_rows(9), "select": made_rows(20, 200), "test": made_rows(3, 300)})
    asked = open_questions([digest], "select", [digest], 5, lengths)
    everyone = open_questions([digest], "select", [digest], None, lengths)
    assert len(asked.questions) == 5 and asked.looks == () and len(everyone.questions) == 20
    assert {q.id for q in asked.questions} <= {q.id for q in everyone.questions}
    assert looks.looks_taken("p", card.locked) == 0
    with pytest.raises(DataError, match="no dev rows"):
        open_questions([digest], "dev", [digest], None, lengths)


def test_the_same_question_twice_is_one_group() -> None:
    prompt = {"role": "system", "content": "Name it."}, {"role": "user", "content": "Where is  it?"}
    again = {"role": "system", "content": "Name it."}, {"role": "user", "content": "where is it?"}
    rows = [
        data.Row(1, (*prompt, {"role": "assistant", "content": "parcel"}), "parcel"),
        data.Row(2, (*again, {"role": "assistant", "content": "parcel"}), "parcel"),
        data.Row(3, (*prompt[:1], {"role": "user", "content": "other"}, prompt[0]), "parcel", "customer-7"),
    ]
    digest, _ = dataset("support", {"test": rows})
    groups = [question.group for question in locked_questions(spec(digest), lengths).questions]
    assert len(set(groups)) == 2 and any("customer-7" in group for group in groups)
