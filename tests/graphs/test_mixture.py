"""What is done about a recipe, from the request to its end: proved, refused, stopped, interrupted, repeated."""

import time
from typing import Any

import pytest

from graphs import mixture, recipes, worker
from graphs import nodes as frame
from moatelier.contracts import MixtureDecision, Recipe
from moatelier.errors import InvalidRequest, MoatelierError, NotFound, UpstreamError
from store import adapters, audit, datasets, events, records, tasks
from store import recipes as kept
from tests.graphs.conftest import Player
from tests.graphs.test_feedback import recipe as of_adapters


@pytest.fixture(autouse=True)
def sources(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters `aaaa...` and `bbbb...` are tuned on datasets `1111...` and `2222...`."""

    class Manifest:
        def __init__(self, dataset: str) -> None:
            self.dataset = dataset

    class Found:
        def __init__(self, digest: str) -> None:
            if digest not in ("a" * 64, "b" * 64, "desk"):
                raise NotFound("There is no such adapter.", where=digest)
            self.manifest = Manifest(("2" if digest[0] == "b" else "1") * 64)

    monkeypatch.setattr(adapters, "get", lambda _, digest: Found(digest))
    cards = {"task-9": ["3" * 64], None: ["1" * 64]}
    monkeypatch.setattr(datasets, "list_cards", lambda _, task=None: cards.get(task, []))


def add(name: str = "panel", **proposer: Any) -> Recipe:
    made = of_adapters(name, **proposer)
    kept.put("default", f"name: {name}", made, actor="k")
    return made


def ended(task: tasks.Task) -> tasks.Task:
    thread = tasks.find_thread(task.thread)
    for _ in range(1000):
        thread = tasks.find_thread(task.thread)
        if thread.status != "busy" and tasks.find_task(task.id).ended:
            break
        time.sleep(0.01)
    return tasks.find_task(task.id)


def told(task: tasks.Task, kind: str) -> list[dict[str, Any]]:
    return [event.body for event in events.read("default", task=task.id, limit=1000) if event.kind == kind]


def test_a_better_recipe_goes_live_on_a_signed_decision(player: Player) -> None:
    made = add()
    done = ended(recipes.evaluate("default", "panel"))
    assert done.status == "reached" and done.name == "panel" and done.request == "Evaluate moa/panel on locked rows"
    assert done.result is not None and done.result["live"] and done.result["gain_low"] > 0
    recipe = kept.get("default", "panel")
    assert (recipe.state, recipe.record) == ("live", done.id)
    record = records.get("default", "mixture_decision", done.id)
    decision = MixtureDecision.model_validate(record.body)
    assert record.subject == made.digest == decision.recipe and decision.live and decision.looks[0].number == 1
    [(kind, spec)] = player.jobs.ran
    assert kind == "mixture" and spec["datasets"] == spec["seen"] == ["1" * 64, "2" * 64] and spec["split"] == "test"
    assert [body["status"] for body in told(done, "status")] == ["evaluating", "gating"]
    assert told(done, "table")[0]["table"]["rows"] == 100 and told(done, "recipe")[0]["state"] == "live"
    assert told(done, "result")[0]["status"] == "reached"


def test_an_equal_recipe_does_not_go_live(player: Player) -> None:
    add()
    player.jobs.recipe = player.jobs.routed
    done = ended(recipes.evaluate("default", "panel"))
    assert done.status == "not_reached" and done.result is not None and not done.result["live"]
    assert kept.get("default", "panel").state == "disabled"
    assert "not shown to be worth its calls" in kept.get("default", "panel").reason


def test_a_live_recipe_that_fails_its_second_evaluation_is_stopped_and_a_third_may_bring_it_back(
    player: Player,
) -> None:
    add()
    good = player.jobs.recipe
    assert ended(recipes.evaluate("default", "panel")).status == "reached"
    player.jobs.recipe = player.jobs.routed
    assert ended(recipes.evaluate("default", "panel")).status == "not_reached"
    assert kept.get("default", "panel").state == "disabled"
    player.jobs.recipe = good
    assert ended(recipes.evaluate("default", "panel")).status == "reached"
    moves = [line.action for line in audit.read("default") if line.subject == "panel"]
    assert moves == ["recipe.draft", "recipe.live", "recipe.disabled", "recipe.live"]


def test_select_rows_decide_nothing(player: Player) -> None:
    add()
    done = ended(recipes.evaluate("default", "panel", split="select", rows=50))
    assert done.status == "reached" and done.result is not None and "nothing follows" in done.result["reason"]
    assert kept.get("default", "panel").state == "draft"
    with pytest.raises(NotFound):
        records.get("default", "mixture_decision", done.id)
    assert player.jobs.ran[0][1]["rows"] == 50 and not told(done, "recipe")


def test_an_evaluation_that_fails_leaves_the_recipe_as_it_is(player: Player) -> None:
    add()
    ended(recipes.evaluate("default", "panel"))
    player.jobs.fail["mixture"] = UpstreamError("The engine is gone.", remedy="Start it.")
    done = ended(recipes.evaluate("default", "panel"))
    assert done.status == "failed" and done.error is not None and done.error["code"] == "upstream_error"
    assert kept.get("default", "panel").state == "live" and told(done, "error")[0]["what"] == "The engine is gone."


def test_a_recipe_that_was_changed_meanwhile_is_not_settled(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    add()
    measure = player.jobs._mixture

    def changed(data: dict[str, Any]) -> dict[str, Any]:
        add("panel", base=True)
        return measure(data)

    monkeypatch.setattr(player.jobs, "_mixture", changed)
    done = ended(recipes.evaluate("default", "panel"))
    assert done.status == "failed" and done.error is not None and done.error["code"] == "conflict"
    assert kept.get("default", "panel").state == "draft"


def test_a_cancelled_evaluation_ends_as_cancelled(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    add()
    start = recipes.jobs.submit_run

    def cancelled_first(run: str) -> None:
        tasks.request_cancel("default", str(tasks.find_thread(tasks.find_run(run).thread).task))
        start(run)

    monkeypatch.setattr(recipes.jobs, "submit_run", cancelled_first)
    assert ended(recipes.evaluate("default", "panel")).status == "cancelled"
    assert not player.jobs.ran and kept.get("default", "panel").state == "draft"


def test_a_run_that_dies_before_the_recipe_is_settled_goes_on_from_there(
    player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between signature and state: the job is not run again, the decision not signed again."""
    add()
    monkeypatch.setattr(recipes.jobs, "submit_run", lambda run: None)
    task = recipes.evaluate("default", "panel")
    run = tasks.list_runs("default", task.thread)[0].id

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(kept, "settle", killed)
        with pytest.raises(Killed):
            worker.advance(run)
    assert kept.get("default", "panel").state == "draft"
    assert worker.advance(run) == "success"
    assert [kind for kind, _ in player.jobs.ran] == ["mixture"]
    assert kept.get("default", "panel").state == "live" and tasks.find_task(task.id).status == "reached"
    assert len(records.list_kind("default", "mixture_decision")) == 1


def test_candidates_become_a_file_once(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    add()
    done = ended(recipes.make_candidates("default", "panel", rows=60))
    assert done.status == "reached" and done.result is not None and done.result["solvable"] == 0.9
    file = datasets.get_file("default", done.result["file"])
    assert file.name == "panel-candidates.jsonl" and player.jobs.ran[0][0] == "candidates"
    again = ended(recipes.make_candidates("default", "panel"))
    assert again.result is not None and again.result["file"] == file.id and len(datasets.list_files("default")) == 1


def test_whose_rows_are_asked_can_be_said(player: Player) -> None:
    add()
    ended(recipes.evaluate("default", "panel", named=["task-9", "desk", "1" * 64]))
    spec = player.jobs.ran[0][1]
    assert spec["datasets"] == ["3" * 64, "1" * 64] and spec["seen"] == ["1" * 64, "2" * 64]
    with pytest.raises(NotFound, match="No task, adapter or dataset"):
        recipes.evaluate("default", "panel", named=["nothing"])


def test_without_adapters_somebody_has_to_say_whose_rows_are_asked(player: Player) -> None:
    layers = [{"proposers": [{"base": True, "samples": 4, "temperature": 0.7}]}]
    made = Recipe.model_validate({"name": "self", "layers": layers, "aggregator": {"kind": "vote"}})
    kept.put("default", "", made, actor="k")
    with pytest.raises(InvalidRequest, match="--dataset"):
        recipes.evaluate("default", "self")
    assert ended(recipes.evaluate("default", "self", named=["desk"])).status == "reached"
    with pytest.raises(NotFound, match="no such recipe"):
        recipes.evaluate("default", "nobody")


def test_the_adapters_of_inner_recipes_count(player: Player) -> None:
    inner = add("inner")
    layers = [{"proposers": [{"recipe": f"inner@{inner.digest}"}, {"base": True}]}]
    outer = Recipe.model_validate({"name": "outer", "layers": layers, "aggregator": {"kind": "vote"}})
    assert recipes.proposers("default", outer) == ["a" * 64, "b" * 64]


def test_a_node_that_fails_unexpectedly_ends_the_task(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    add()

    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(kept, "settle", broken)
    done = ended(recipes.evaluate("default", "panel"))
    assert done.status == "failed" and done.error is not None and "a fault of ours" in done.error["what"]


def test_the_frame_ends_a_task_of_any_graph() -> None:
    @frame.guarded
    def fails(state: mixture.State) -> mixture.State:
        raise MoatelierError("no")

    task = recipes.tasks.create_task(
        "default", id="task-x", thread="t", conversation="t", request="r", train_file="", test_file=None
    )
    assert fails({"task": task.id, "project": "default"})["outcome"] == "failed"
