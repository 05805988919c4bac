"""The kill matrix of recipes: every process dies at every stage of an evaluation and of the making of candidates.

Each run evaluates a recipe on locked rows, makes the rows for its aggregator, and evaluates it again, undisturbed. It
must end as one in which nobody was killed: the same tables, one look for each evaluation, one decision for each, one
file, the same standing, and the same events, none missing and none twice.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalities.bundle import read_manifest
from store import adapters
from tests.e2e.harness import Service, prepared
from tests.graphs.planted import dataset
from tests.serving.conftest import seal_adapter

EVALUATION = {
    "queued": "mixture.queued",
    "its job enqueued": "mixture.enqueued",
    "before the look": "mixture.before_look",
    "after the look": "mixture.after_look",
    "some questions answered": "mixture.asking",
    "signed, before it stands": "mixture.before_state",
}
CANDIDATES = {
    "candidates queued": "candidates.queued",
    "candidates, the job enqueued": "candidates.enqueued",
    "candidates, some questions answered": "candidates.asking",
    "candidates, the file kept": "candidates.kept",
}
STAGES = {**EVALUATION, **CANDIDATES}
"""Stage -> the fault point at which its process waits."""
RECIPE = """\
name: panel
layers:
  - proposers: [{adapter: a}, {adapter: b}, {adapter: c}]
    quorum: 3
aggregator: {kind: vote, prior: 0}
"""


@dataclass(frozen=True)
class Outcome:
    """What must not depend on who was killed."""

    statuses: tuple[str, ...]
    """Of the three tasks."""
    tables: tuple[str, ...]
    """What the signed decisions rest on, without its seconds, and which look it was."""
    looks: int
    standing: str
    moves: tuple[str, ...]
    """What the audit log tells of the recipe."""
    files: tuple[str, ...]
    """Name and content of what was made."""
    events: Counter[str]


def run_recipe(folder: Path, kills: Iterable[tuple[str, str]]) -> Outcome:
    """The three tasks on a fresh service, with a kill of (stage, victim) at each named stage."""
    victims = dict(kills)
    faults = ",".join(STAGES[stage] for stage in victims)
    service = Service(folder, MOATELIER_PRECISION="fp32", MOATELIER_FAULT=faults)
    with prepared(service):
        made_of = dataset(test=24)
        for seed, name in enumerate("abc", start=1):
            bundle = seal_adapter("tiny", folder, name, seed=seed, dataset=made_of)
            record = adapters.register("default", read_manifest(bundle), "task-1")
            adapters.set_alias("default", name, record.digest, fence=1, actor="test")
        with service:
            service.call("POST", "/v1/moa", json={"yaml": RECIPE})
            ended = [
                _task(service, "evaluations", EVALUATION, victims),
                _task(service, "candidates", CANDIDATES, victims),
                _task(service, "evaluations", {}, victims),
            ]
            return _outcome(service, ended)


def _task(service: Service, what: str, stages: dict[str, str], victims: dict[str, str]) -> dict[str, Any]:
    task = service.call("POST", f"/v1/moa/panel/{what}", json={})["id"]
    for stage, fault in stages.items():
        if stage in victims:
            service.kill_at(fault, victims[stage])
    return service.end(task)


def _outcome(service: Service, ended: list[dict[str, Any]]) -> Outcome:
    with sqlite3.connect(service.home / "moatelier.db") as store:
        signed = store.execute("SELECT body FROM records WHERE kind = 'mixture_decision' ORDER BY rowid").fetchall()
        looks = store.execute("SELECT count(*) FROM looks").fetchone()[0]
        files = store.execute("SELECT name, sha256 FROM files").fetchall()
        moves = store.execute("SELECT action FROM audit WHERE subject = 'panel' ORDER BY rowid").fetchall()
    store.close()
    recipe = service.call("GET", "/v1/moa/panel")
    # An adapter's configuration names the folder that its base lies in, so its digest is another in each run.
    names = {recipe["digest"]: "recipe"}
    for adapter in service.call("GET", "/adapters")["data"]:
        names |= {adapter["digest"]: adapter["suffix"], adapter["model_id"]: adapter["suffix"]}

    def plain(text: str) -> str:
        for known, name in names.items():
            text = text.replace(known, name)
        return text

    return Outcome(
        statuses=tuple(task["status"] for task in ended),
        tables=tuple(plain(json.dumps(_timeless(json.loads(body)), sort_keys=True)) for (body,) in signed),
        looks=looks,
        standing=plain(f"{recipe['state']}: {recipe['reason']}"),
        moves=tuple(action for (action,) in moves),
        files=tuple(sorted(f"{name} {sha256}" for name, sha256 in files)),
        events=sum((service.events(task["id"]) for task in ended), Counter()),
    )


TIMES = {"seconds", "per_second", "task"}


def _timeless(value: Any) -> Any:
    """A table without what its answers took, and without the random id of its task."""
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
