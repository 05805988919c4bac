"""The kill matrix: every process dies at every stage of a task by SIGKILL, and nothing is lost or done twice.

`make kill-matrix` runs it whole: tasks on texts, pictures and recordings (`kinds.py`), one for each victim, which dies
at every stage in turn, and the same for what is done about a recipe (`recipe_kills.py`). Each task must end as an
undisturbed one does: the same status, one adapter with bit-equal weights, one gate decision, one look at the locked
rows, one signed entry into `auto` with a bit-equal profile, and the same events, none missing and none twice.
"""

import argparse
import json
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.e2e import recipe_kills
from tests.e2e.harness import Service, wait_for
from tests.e2e.kinds import KINDS

AWAITING = "awaiting approval"
ANSWERING = "engine.answering"
STAGES = {
    "planning": "node.planning",
    "probing, its job enqueued": "probe.enqueued",
    "probing, the pace measured": "probe.measured",
    AWAITING: "",
    "curating": "node.curating",
    "doubting, its job enqueued": "doubt.enqueued",
    "doubting, the base has answered": "doubt.answered",
    "queued": "node.queued",
    "before the first checkpoint": "train.before_first_checkpoint",
    "inside a checkpoint's write": "checkpoint.inside",
    "between two checkpoints": "train.between_checkpoints",
    "sealing": "train.sealing",
    "evaluating": "node.evaluating",
    "gating, before the look": "gate.before_look",
    "gating, after the look": "gate.after_look",
    "gating, before the signature": "gate.before_sign",
    "registering": "node.registering",
    "routing, its job enqueued": "routing.enqueued",
    "routing, its job running": "routing.running",
    "routing, profile and card written": "routing.written",
    "routing, before it joins": "routing.before_join",
    "routing, after it joined": "routing.after_join",
    "answering": ANSWERING,
}
"""Stage -> the fault point at which its process waits; awaiting approval waits by itself."""
VICTIMS = ("api", "worker", "engine", "supervisor", "job")
"""`job` is whoever waits at the fault point: a job's own process, else the worker."""


@dataclass(frozen=True)
class Outcome:
    """What must not depend on who was killed."""

    status: str
    adapters: tuple[str, ...]
    aliases: tuple[str, ...]
    gate_decisions: int
    looks: int
    entries: tuple[str, ...]
    """The signed entries into `auto`: who, with which profile, joined or not, and why."""
    cards: int
    models: tuple[str, ...]
    """What a request may name, `auto` among it."""
    events: Counter[str]


def stages_of(kind: str) -> list[str]:
    """The stages that a kind of task has, in their order."""
    return [stage for stage in STAGES if stage not in KINDS[kind].without]


def run_task(kind: str, folder: Path, kills: Iterable[tuple[str, str]]) -> Outcome:
    """One task of a kind on a fresh service, with a kill of (stage, victim) at each named stage, in their order."""
    victims, told = dict(kills), KINDS[kind]
    faults = ",".join(STAGES[stage] for stage in victims if STAGES[stage])
    with Service(folder, **told.models, MOATELIER_FAULT=faults) as service:
        thread, task = service.begin(told.file(folder), told.request)
        for stage in stages_of(kind):
            if stage == AWAITING:
                service.interrupt(thread)
            if stage in victims and stage != "answering":
                service.kill_at(STAGES[stage], victims[stage])
            if stage == AWAITING:
                service.say(thread, "yes")  # a message is harder to take once than a resume by its id
        ended = service.end(task)
        _answer(service, ended["result"]["model"], told.content(), victims.get("answering"))
        return _outcome(service, ended)


def _answer(service: Service, model: str, content: Any, victim: str | None) -> None:
    """Ask the adapter while its engine, or whoever stands before it, dies; asked again, it answers."""
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
    key = (service.home / "keys" / "admin.key").read_text().strip()

    def ask() -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{service.url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    if victim:
        wait_for("the engine to be back from its last death", service.ready)  # or the question would not reach it
        first = threading.Thread(target=_swallow, args=(ask,))
        first.start()
        service.kill_at(ANSWERING, "engine" if victim == "job" else victim)
        service.let_go(ANSWERING)
        first.join()
    for _ in range(100):
        try:
            response = ask()
            if response.status_code == 200 and response.json()["choices"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError("the adapter never answered again")


def _swallow(ask: Any) -> None:
    try:
        ask()
    except httpx.TransportError:
        pass  # the point of the exercise


def _outcome(service: Service, task: dict[str, Any]) -> Outcome:
    adapters = service.call("GET", "/adapters")["data"]
    with sqlite3.connect(service.home / "moatelier.db") as store:
        signed = Counter(kind for (kind,) in store.execute("SELECT kind FROM records"))
        entries = [body for (body,) in store.execute("SELECT body FROM records WHERE kind = 'router_profile'")]
        looks = store.execute("SELECT count(*) FROM looks").fetchone()[0]
    store.close()
    return Outcome(
        status=task["status"],
        adapters=tuple(sorted(adapter["digest"] for adapter in adapters)),
        aliases=tuple(sorted(alias for adapter in adapters for alias in adapter["aliases"])),
        gate_decisions=signed["gate_decision"],
        looks=looks,
        entries=tuple(sorted(json.dumps(json.loads(body), sort_keys=True) for body in entries)),
        cards=signed["router_card"],
        models=tuple(sorted(model["id"] for model in service.call("GET", "/v1/models")["data"])),
        events=service.events(task["id"]),
    )


def difference(expected: Any, got: Any) -> str:
    """What differs between two outcomes, in words; empty when nothing does."""
    told = [
        f"{field.name}: {getattr(got, field.name)} instead of {getattr(expected, field.name)}"
        for field in fields(expected)
        if field.name != "events" and getattr(got, field.name) != getattr(expected, field.name)
    ]
    told += [f"missing event {key}" for key in expected.events - got.events]
    told += [f"surplus event {key}" for key in got.events - expected.events]
    return "; ".join(told)


RECIPE = "recipe"
Run = Callable[[Path, Iterable[tuple[str, str]]], Any]


def _runs(kind: str) -> tuple[Run, Sequence[str]]:
    """What runs a kind, and its stages."""
    if kind == RECIPE:
        return recipe_kills.run_recipe, list(recipe_kills.STAGES)
    return partial(run_task, kind), stages_of(kind)


def main() -> None:
    """Run the whole matrix and print a line a victim, then one JSON line."""
    parser = argparse.ArgumentParser(description="Every process dies at every stage.")
    parser.add_argument("--kind", choices=(*KINDS, RECIPE), action="append", help="only this kind of task")
    parser.add_argument("--victim", choices=VICTIMS, action="append", help="only this one")
    parser.add_argument("--keep", type=Path, help="keep the folders here")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="kill-matrix-"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    victims, failures, kills = arguments.victim or VICTIMS, 0, 0
    for kind in arguments.kind or (*KINDS, RECIPE):
        run, stages = _runs(kind)
        for stage, why in KINDS[kind].without.items() if kind in KINDS else ():
            print(f"{kind:<11} has no stage `{stage}`: {why}", flush=True)
        expected = run(folder / kind / "undisturbed", [])
        for victim in victims:
            start = time.monotonic()
            try:
                told = difference(expected, run(folder / kind / victim, [(stage, victim) for stage in stages]))
            except AssertionError as error:
                told = str(error)
            failures, kills = failures + bool(told), kills + len(stages)
            took = f"{len(stages)} kills {time.monotonic() - start:6.1f} s"
            print(f"{kind:<11} {victim:<11} {took}  {told or 'as undisturbed'}", flush=True)
    print(json.dumps({"victims": len(victims), "kills": kills, "failures": failures, "folder": str(folder)}))
    raise SystemExit(failures)


if __name__ == "__main__":
    main()
