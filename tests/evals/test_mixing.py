"""A mixed adapter and what it retains of its parents' tasks."""

from pathlib import Path
from typing import Any

import pytest

from evals import mixing, vault
from moatelier.contracts import Retention
from moatelier.errors import DataError, InvalidRequest
from moatelier.job import Job
from modalities.bundle import bundle_folder, read_manifest
from store import artifacts, datasets
from tests.evals.conftest import Curated, Train


def fields(parents: list[str], **changes: Any) -> dict[str, Any]:
    told = {"method": "cat", "parents": parents, "weights": [0.5, 0.5]} | changes
    return {"suffix": "both", "mixing": told}


def test_each_parents_task_is_scored_on_rows_that_are_not_locked(
    curated: Curated, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "open_locked", lambda *_: pytest.fail("the locked rows are the gate's"))
    parents = [train(seed=1, epochs=4), train(seed=2)]
    job = Job(tmp_path / "job", quiet=True)
    told = Retention.model_validate(mixing.work(fields(parents), job))
    assert [line.parent for line in told.table] == parents
    for line in told.table:
        assert (line.dataset, line.split, line.rows, line.metric) == (curated.digest, "select", 9, "accuracy")
        gap = line.by_mixed.point - line.by_parent.point
        assert line.comparison.difference.point == pytest.approx(gap)
        assert line.comparison.difference.low <= gap <= line.comparison.difference.high
    assert read_manifest(bundle_folder(told.adapter)).mixing == told.mixing
    assert not (job.folder / "answers").exists()
    assert told == Retention.model_validate(mixing.work(fields(parents), Job(tmp_path / "again", quiet=True)))


def test_an_adapter_mixed_of_mixed_ones_answers_for_all_their_tasks(
    curated: Curated, train: Train, tmp_path: Path
) -> None:
    other = datasets.get_card(curated.digest).model_copy(update={"name": "other"})
    parents = [train(seed=1), train(seed=2, dataset=artifacts.put_json(other))]
    first = mixing.work(fields(parents), Job(tmp_path / "first", quiet=True))
    again = mixing.work(fields([first["adapter"], parents[0]]), Job(tmp_path / "second", quiet=True))
    assert [(line["parent"], line["dataset"]) for line in again["table"]] == [
        (first["adapter"], curated.digest),
        (first["adapter"], artifacts.put_json(other)),
        (parents[0], curated.digest),
    ]


def test_without_rows_to_look_at_or_with_a_weight_too_few_it_says_so(
    curated: Curated, train: Train, tmp_path: Path
) -> None:
    parents = [train(seed=1), train(seed=2)]
    with pytest.raises(InvalidRequest, match="2 adapters and 1 weights"):
        mixing.work(fields(parents, weights=[1.0]), Job(tmp_path / "job", quiet=True))
    card = curated.card
    bare = {name: info.model_copy(update={"rows": 0, "artifact": None}) for name, info in card.splits.items()}
    with pytest.raises(DataError, match="neither select nor dev"):
        mixing.open_rows(card.model_copy(update={"splits": bare}))
