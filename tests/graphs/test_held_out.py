"""A recipe measured through a real client on an engine with planted answers: who is asked, and what is looked at."""

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from evals.rows import SPARE_TOKENS
from graphs import candidates, held_out, processes
from graphs.served import token_lengths
from moatelier.contracts import CandidatesResult, CandidatesSpec, MixtureResult
from moatelier.errors import Cancelled, Conflict, DataError, LooksExhausted, NotFound, UpstreamError
from moatelier.job import Job
from moatelier.settings import settings
from serving.prompts import with_references
from store import adapters, artifacts, datasets, looks
from tests.api.running import running
from tests.graphs.planted import LABELS, Engine, adapter, add, dataset, made_rows, number, truth, wrong
from tests.media import packed, scene, word
from tests.routed import join

PANEL = """\
name: panel
layers:
  - proposers: [{adapter: one}, {adapter: two}, {adapter: three}]
    quorum: 3
aggregator: {kind: vote, prior: 0}
"""


SAME = """\
name: same
layers:
  - proposers: [{adapter: eyes}, {adapter: ears}]
aggregator: {kind: compare}
"""


def thirds(model: str, said: str) -> str:
    """Each of three adapters is wrong on another fifth of the questions; the base always is."""
    miss = {"one": 0, "two": 1, "three": 2}.get(model)
    return wrong(said) if miss is None or number(said) % 5 == miss else truth(said)


@pytest.fixture
def engine(tiny: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    planted = Engine(thirds)
    with running(planted.app()) as url:
        monkeypatch.setattr(held_out, "engine_url", lambda: url)
        monkeypatch.setattr(candidates, "engine_url", lambda: url)
        yield planted


@pytest.fixture
def desk(engine: Engine) -> str:
    digest = dataset()
    for place, name in enumerate(("one", "two", "three")):
        adapter(name, digest, place)
    return digest


Measure = Callable[..., MixtureResult]


def spec(recipe: Any, made_of: str, split: str = "test", **fields: Any) -> dict[str, Any]:
    given = {"project": "default", "task": "task-7", "name": recipe.name, "recipe": recipe.digest, "split": split}
    return given | {"datasets": [made_of], "seen": [made_of]} | fields


@pytest.fixture
def measure(desk: str, tmp_path: Path) -> Measure:
    def run(text: str = PANEL, **fields: Any) -> MixtureResult:
        asked = spec(add(text), desk, **fields)
        return MixtureResult.model_validate(held_out.work(asked, Job(tmp_path / "job", quiet=True)))

    return run


def test_a_panel_is_measured_beside_its_models(measure: Measure, engine: Engine, tmp_path: Path) -> None:
    found = measure()
    table = found.table
    assert table.rows == 60 and [line.right.point for line in table.singles] == pytest.approx([0.8, 0.8, 0.8])
    assert table.recipe.right.point == table.vote.right.point == table.oracle.right.point == 1.0
    assert table.routed_by == "hindsight" and table.gain.difference.claim_low > 0
    assert table.singles[0].subject == adapters.get("default", "one").model_id
    assert (table.recipe.tokens, table.singles[0].tokens) == (36, 12) and table.failed == {} and table.instead == 0
    assert [look.number for look in found.looks] == [1] and found.left_out == 0
    asked = [body["messages"][-1]["content"] for body in engine.asked]
    assert len([text for text in asked if number(text) >= 3000]) == 3 * 60, "no model is asked twice"
    assert not list((tmp_path / "job" / "answers").iterdir()), "answers to locked rows do not lie about"


def test_the_answer_has_room_for_the_longest_label_and_no_more(measure: Measure, engine: Engine) -> None:
    measure()
    limit = max(token_lengths()(list(LABELS))) + SPARE_TOKENS["classification"]
    assert {body["max_tokens"] for body in engine.asked if number(body["messages"][-1]["content"]) >= 3000} == {limit}


def test_the_routers_choice_is_what_it_is_compared_with(measure: Measure, desk: str) -> None:
    join(adapters.get("default", "two"), [f"question {place}" for place in range(6)])
    table = measure().table
    assert table.routed_by == "router" and table.routed.right.point == pytest.approx(0.8)


def test_a_router_that_knows_none_of_its_adapters_is_no_comparison(measure: Measure, desk: str) -> None:
    """It would send everything elsewhere, and beating that proves nothing."""
    join(adapter("stranger", dataset("other", start=50_000)), [f"question {place}" for place in range(6)])
    assert measure().table.routed_by == "hindsight"


def test_select_rows_cost_no_look(measure: Measure, desk: str) -> None:
    found = measure(split="select", rows=10)
    assert found.table.rows == 10 and found.looks == ()
    assert looks.looks_taken("default", datasets.get_card(desk).locked) == 0


def test_no_look_is_taken_when_a_model_does_not_answer(measure: Measure, engine: Engine, desk: str) -> None:
    engine.refuses = "two"
    with pytest.raises(UpstreamError, match="no look was taken"):
        measure()
    engine.down = True
    with pytest.raises(UpstreamError):
        measure()
    assert looks.looks_taken("default", datasets.get_card(desk).locked) == 0


def test_to_say_nothing_is_a_wrong_answer_not_a_failure(measure: Measure, engine: Engine) -> None:
    engine.says = lambda model, said: "" if model == "two" else thirds(model, said)
    table = measure().table
    assert table.singles[1].right.point == 0.0 and table.failed == {}
    assert table.recipe.right.point == pytest.approx(0.8), "of two that differ the first one counts"


def test_an_exam_of_pictures_and_recordings_is_asked_as_clients_ask(desk: str, engine: Engine, tmp_path: Path) -> None:
    """A compare recipe over eyes and ears; each is always right, so whoever must answer yes or no alone never is."""
    for name, modality, base in (("eyes", "vision", settings().vision_base), ("ears", "audio", settings().audio_base)):
        adapter(name, desk, modality=modality, base=base)
    members, rows, heard = {}, [], {}
    for place, (shown, said, _) in enumerate(product(("red", "blue"), ("red", "blue"), range(3))):
        picture, sound = scene(shown, place), word(said, take=place)
        heard |= {b64encode(picture).decode(): shown, b64encode(sound).decode(): said}
        members |= {f"{place}.png": picture, f"{place}.wav": sound}
        answer = "yes" if shown == said else "no"
        rows.append({"question": "The same?", "image": f"{place}.png", "audio": f"{place}.wav", "answer": answer})
    members["exam.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    sent = datasets.add_file("default", "exam.zip", BytesIO(packed(tmp_path / "exam.zip", members).read_bytes()))
    engine.says = lambda model, said: next(
        word for data, word in heard.items() if data in said and (data.startswith("iVBOR")) == (model == "eyes")
    )
    recipe = add(SAME)
    asked = spec(recipe, desk) | {"datasets": [], "exam": sent.id}
    found = MixtureResult.model_validate(held_out.work(asked, Job(tmp_path / "job", quiet=True)))
    table = found.table
    assert (table.rows, table.recipe.right.point, table.best_single.right.point) == (11, 1.0, 0.0)
    assert found.looks[0].number == 1 and table.routed_by == "commonest" and table.gain.difference.point > 0.4


def test_an_engine_that_dies_on_the_way_decides_nothing(measure: Measure, engine: Engine) -> None:
    engine.down_after = 60
    with pytest.raises(UpstreamError, match="says nothing of its worth"):
        measure()


def test_an_engine_that_is_started_again_on_the_way_changes_nothing(
    measure: Measure, engine: Engine, desk: str
) -> None:
    engine.lives_until = 60
    found = measure()
    assert engine.created == 2 and found.table.failed == {} and found.table.recipe.right.point == 1.0
    assert found.looks[0].number == looks.looks_taken("default", datasets.get_card(desk).locked) == 1
    assert len(engine.asked) < 3 * 60 + 8 * 3 + 15, "who has answered is not asked again"


def test_a_job_that_begins_again_takes_no_second_look_and_asks_on(
    desk: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, job = spec(add(PANEL), desk), Job(tmp_path / "job", quiet=True)
    original = thirds

    def stopping(model: str, said: str) -> str:
        if len(engine.asked) > 60:
            job.stop_reason = "SIGTERM"
        return original(model, said)

    engine.says = stopping
    with pytest.raises(Cancelled):
        held_out.work(asked, job)
    before, engine.says = len(engine.asked), original
    again = MixtureResult.model_validate(held_out.work(asked, Job(tmp_path / "job", quiet=True)))
    assert again.table.rows == 60 and again.looks[0].number == 1
    assert looks.looks_taken("default", datasets.get_card(desk).locked) == 1
    assert len(engine.asked) - before < 3 * 60 + 10


def test_exhausted_looks_and_changed_recipes_are_told(measure: Measure, desk: str, tmp_path: Path) -> None:
    made = add(PANEL)
    for place in range(5):
        looks.take_look("default", datasets.get_card(desk).locked, f"task-{place}", "c" * 64)
    with pytest.raises(LooksExhausted):
        measure(task="task-77")
    add(PANEL.replace("prior: 0", "prior: 1"))
    with pytest.raises(Conflict, match="changed meanwhile"):
        held_out.work(spec(made, desk), Job(tmp_path / "other", quiet=True))
    with pytest.raises(NotFound, match="no such recipe"):
        held_out.work(spec(made, desk, name="nobody"), Job(tmp_path / "third", quiet=True))


def test_samples_of_one_model_are_compared_with_it_alone(measure: Measure, engine: Engine) -> None:
    text = "name: self\nlayers: [{proposers: [{adapter: one, samples: 3, temperature: 0.8}]}]\naggregator: {kind: vote}"
    table = measure(text, rows=12).table
    assert len(table.singles) == 1 and table.rows == 12
    greedy = [body for body in engine.asked if body.get("temperature") == 0]
    assert len(greedy) == 12 + 1, "each row, and the rehearsal"


def test_layers_that_read_each_other_can_be_measured(measure: Measure, engine: Engine) -> None:
    engine.says = lambda model, said: truth(said) if model == "base" and "[1]" in said else thirds(model, said)
    text = PANEL.replace("aggregator: {kind: vote, prior: 0}", "aggregator: {kind: synthesis, base: true}")
    table = measure(text).table
    assert table.recipe.right.point == 1.0 and table.recipe.tokens == 48
    engine.says = lambda model, said: "" if model == "base" else thirds(model, said)
    table = measure(text, task="task-8").table
    assert table.instead == 60, "an aggregator that fails is told: something else was measured"


def test_the_job_is_a_process_of_its_own(desk: str, engine: Engine, tmp_path: Path) -> None:
    """As the worker starts it: the engine is found by the settings, the result and the progress are in the folder."""
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec(add(PANEL), desk, split="select")))
    port = held_out.engine_url().rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        processes.MODULES["mixture"],
        "--spec",
        str(file),
        "--folder",
        str(tmp_path / "out"),
    ]
    env = {**os.environ, "MOATELIER_ENGINE_PORT": port}
    done = subprocess.run([*command, "--quiet"], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = MixtureResult.model_validate_json((tmp_path / "out" / "result.json").read_text())
    assert found.table.rows == 30 and found.looks == ()
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert events[-1]["body"] == {"phase": "mixture", "done": 30, "rows": 30, "seconds_left": 0.0}


# ---------------------------------------------------------------- candidates


def make(text: str, made_of: str, folder: Path, **fields: Any) -> CandidatesResult:
    made = add(text)
    given = {"project": "default", "task": "task-7", "name": made.name, "recipe": made.digest}
    asked = CandidatesSpec.model_validate(given | {"datasets": (made_of,), "seen": (made_of,)} | fields)
    job = Job(folder / f"job-{made.name}", quiet=True)
    return CandidatesResult.model_validate(candidates.work(asked.model_dump(mode="json"), job))


def lines(made: CandidatesResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifacts.get_bytes(made.artifact).splitlines()]


def test_candidates_are_of_dev_rows_in_the_form_of_serving(desk: str, engine: Engine, tmp_path: Path) -> None:
    made = make(PANEL, desk, tmp_path)
    dev = {row.id: row for row in made_rows(40, 1000)}
    assert (made.rows, made.left_out, made.solvable) == (40, 0, 1.0)
    asked = {
        number(body["messages"][-1]["content"]) for body in engine.asked if body["messages"][0]["role"] == "system"
    }
    assert asked == set(range(1000, 1040)), "dev rows and no others"
    for line in lines(made):
        row = dev[line["group"]]
        said = str(row.messages[1]["content"])
        shown = with_references(row.messages[:-1], [thirds(name, said) for name in ("one", "two", "three")])
        assert line["messages"] == [*shown, {"role": "assistant", "content": row.label}]


def test_the_aggregator_gets_the_very_prompt_it_was_trained_on(desk: str, engine: Engine, tmp_path: Path) -> None:
    trained = {json.dumps(line["messages"][:-1]) for line in lines(make(PANEL, desk, tmp_path))}
    text = PANEL.replace("aggregator: {kind: vote, prior: 0}", "aggregator: {kind: synthesis, base: true}")
    engine.asked.clear()
    made = add(text)
    questions = spec(made, desk, split="select")
    card = datasets.get_card(desk)
    swapped = card.model_copy(update={"splits": {**card.splits, "select": card.splits["dev"]}})
    questions |= {"datasets": [datasets.add_card("default", swapped, "task-swapped")], "seen": []}
    held_out.work(questions, Job(tmp_path / "whole", quiet=True))
    shown = {json.dumps(body["messages"]) for body in engine.asked if "[1]" in body["messages"][-1]["content"]}
    assert trained <= shown


def test_the_aggregator_is_not_asked_and_no_gate_leaves_anybody_out(desk: str, engine: Engine, tmp_path: Path) -> None:
    text = PANEL.replace("aggregator: {kind: vote, prior: 0}", "aggregator: {kind: synthesis, base: true}")
    made = make(text + "gate: {one_below: 9}\n", desk, tmp_path, rows=25)
    assert made.rows == 25 and all("[3]" in line["messages"][-2]["content"] for line in lines(made))
    assert len(engine.asked) <= 3 * 25 + 8


def test_an_engine_that_is_started_again_costs_no_candidates(desk: str, engine: Engine, tmp_path: Path) -> None:
    engine.lives_until = 50
    made = make(PANEL, desk, tmp_path)
    assert engine.created == 2 and (made.rows, made.left_out) == (40, 0)
    assert all("[3]" in line["messages"][-2]["content"] for line in lines(made))


def test_too_few_dev_rows_or_answers_are_told(desk: str, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10 dev rows are too few"):
        make(PANEL, desk, tmp_path, rows=10)
    engine.asked.clear()
    engine.down_after = 20
    with pytest.raises(UpstreamError, match="Nobody proposed"):
        make(PANEL.replace("panel", "mute"), desk, tmp_path)
