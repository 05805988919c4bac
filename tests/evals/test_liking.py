"""Whether an adapter has come to like what is preferred, and the gate on it."""

from pathlib import Path
from typing import Any

import pytest

from evals import gate, run, vault
from evals.answers import load_subject
from evals.liking import like_all, liked
from evals.rows import EvalRow, read_rows
from moatelier.contracts import Columns, DatasetCard, EvalSpec, GateSpec, Goal, SplitInfo
from moatelier.job import Job
from modalities.bundle import bundle_folder
from modalities.text import data
from serving.engine import TextEngine
from store import artifacts
from tests.evals.conftest import made_rows
from training import preferring
from training.run import work


def pairs(count: int, start: int = 0) -> list[data.Row]:
    made = []
    for row in made_rows(count, start):
        told = row.answer
        messages = (*row.messages[:-1], {"role": "assistant", "content": f"{told} please"})
        made.append(data.Row(row.number, messages, rejected=f"{told} order {told}"))
    return made


def thumbs(count: int, start: int = 0) -> list[data.Row]:
    made = []
    for number, row in enumerate(pairs(count, start)):
        answer = row.answer if number // 3 % 3 else str(row.rejected)
        messages = (*row.messages[:-1], {"role": "assistant", "content": answer})
        made.append(data.Row(row.number, messages, good=bool(number // 3 % 3)))
    return made


def card_of(kind: Any, make: Any, plain: DatasetCard) -> DatasetCard:
    locked = make(80, 300)
    splits = {"train": make(45), "dev": make(12, 100), "select": make(12, 200)}
    infos: dict[Any, SplitInfo] = {
        name: SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(data.write_rows(rows)))
        for name, rows in splits.items()
    }
    digest = data.locked_digest(locked)
    vault.lock(data.write_rows(locked), digest)
    columns = Columns(input="prompt", target="chosen", rejected="rejected")
    changes = {"kind": kind, "labels": (), "columns": columns, "locked": digest}
    return plain.model_copy(update=changes | {"splits": infos | {"test": SplitInfo(rows=80, artifact=None)}})


def test_good_answers_must_gain_and_bad_ones_lose() -> None:
    rows = [EvalRow(str(n), (), "a", good=n < 2) for n in range(4)]
    assert liked(rows, [1.0, -6.0, -9.0, 2.0]) == [True, False, True, False]
    assert liked([EvalRow("a", (), "b", rejected="c")] * 2, [0.5, -0.5]) == [True, False]


@pytest.mark.parametrize(("kind", "make", "method"), [("preference", pairs, "dpo"), ("thumbs", thumbs, "kto")])
def test_a_task_on_preferences_passes_evaluation_and_gate(
    curated: Any, home: Path, kind: Any, make: Any, method: str
) -> None:
    card = card_of(kind, make, curated.card)
    digest = artifacts.put_json(card)
    fields = {"rank": 16, "alpha": 64.0, "learning_rate": 0.01, "epochs": 10.0, "beta": 0.5, "precision": "fp32"}
    told = {"method": method, "base": "tiny", "dataset": digest, "suffix": "liked", **fields}
    bundle = work(told, Job(home / "jobs" / "train", quiet=True))["bundle"]
    reports = {}
    for subject in (None, bundle):
        spec = EvalSpec(dataset=digest, base="tiny", bundle=subject, split="dev")
        reports[subject] = run.evaluate(spec, Job(home / "jobs" / f"eval-{subject}", quiet=True))
    assert reports[None].metrics["preference_accuracy"].point == 0.0 and reports[bundle].loss is None
    assert reports[bundle].metrics["preference_accuracy"].point >= 0.75
    goal = Goal(metric="preference_accuracy", target=0.6)
    spec = GateSpec(
        project="default", task="task-1", dataset=digest, base="tiny", candidate=bundle, champion=None, goal=goal
    )
    decision = gate.work(spec.model_dump(), Job(home / "jobs" / "gate", quiet=True))
    assert decision["reached"] and decision["promoted"]
    assert decision["reason"].startswith("Preference accuracy is")


def test_the_verdict_is_the_margin_of_training(curated: Any, home: Path) -> None:
    card = card_of("preference", pairs, curated.card)
    digest = artifacts.put_json(card)
    told = {"method": "dpo", "base": "tiny", "dataset": digest, "suffix": "x", "epochs": 1.0, "precision": "fp32"}
    bundle = work(told, Job(home / "jobs" / "train", quiet=True))["bundle"]
    rows = read_rows(data.write_rows(pairs(12, 500)))
    engine = TextEngine("tiny", "fp32")
    load_subject(engine, bundle)
    answered = like_all(engine, rows, adapter=bundle, folder=home / "kept", progress=lambda *_: None)
    lines = [{"row": 1, "messages": row.messages, "rejected": row.rejected} for row in rows]
    spec = preferring.TrainSpec.model_validate(told)
    made = preferring.prepare(spec, card, {"train": lines, "dev": []}, Job(home / "made", quiet=True))
    made.restore(preferring_weights(bundle))
    made.model.eval()
    assert [one.answer == one.truth for one in answered] == (made.margins(range(12)) > 0).tolist()
    made.close()
    again = like_all(engine, rows, adapter=bundle, folder=home / "kept", progress=lambda *_: None)
    assert again == answered


def preferring_weights(bundle: str) -> Any:
    from safetensors.torch import load_file  # noqa: PLC0415

    return load_file(bundle_folder(bundle) / "adapter_model.safetensors")
