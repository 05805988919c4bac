"""The graphs in one process: runs advance in threads, and a job layer of canned results stands in for processes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals import bases, router_card
from evals.mixture import Given, Outcome, table
from graphs import checkpoint, conversation, derivation, entry, grading, jobs, lifecycle, mixture, worker
from moatelier.contracts import (
    BuiltProfile,
    CandidatesResult,
    CandidatesSpec,
    EvalReport,
    Event,
    ExportSpec,
    GateDecision,
    GateSpec,
    HeldOut,
    Interval,
    MixSpec,
    MixtureLook,
    MixtureResult,
    MixtureSpec,
    PairedComparison,
    Parity,
    Retained,
    Retention,
    RouterProfile,
    RoutingResult,
    RoutingSpec,
    TrainSpec,
)
from moatelier.errors import MoatelierError
from moatelier.job import Job
from moatelier.settings import settings
from modalities import bundle, exported
from serving.prototypes import profile, unit
from store import adapters, artifacts, datasets, events, records, tasks
from tests import fakes

SPEED = {
    "train_rows_per_s": 10.0,
    "frozen_rows_per_s": 40.0,
    "dev_rows_per_s": 30.0,
    "start_seconds": 0.5,
    "peak_bytes": 2_000_000_000,
    "held_bytes": 1_000_000_000,
    "cache_bytes": 1000,
    "precision": "fp32",
}


NAMES = ("accuracy", "macro_f1", "exact_match", "preference_accuracy")


def interval(point: float) -> Interval:
    return Interval(point=point, low=point - 0.05, high=min(1, point + 0.05), claim_low=point - 0.06, method="wilson")


def report(subject: str, split: str, point: float) -> EvalReport:
    metrics = {name: interval(point) for name in NAMES}
    return EvalReport(subject=subject, split=split, rows=40, kind="classification", metrics=metrics, loss=1 - point)


class FakeJobs:
    """Answers every job at once; `score` is what every trial reaches, `fail` maps a kind to its error.

    `recipe` and `routed` say on which rows a recipe, and routing to one, are right.
    """

    def __init__(self) -> None:
        self.score = 0.96
        self.told_apart = 1.0
        self.recipe, self.routed = "1" * 90 + "0" * 10, "1" * 60 + "0" * 40
        self.embedding_digest = "e" * 64
        self.fail: dict[str, MoatelierError] = {}
        self.speed: dict[str, Any] = dict(SPEED)
        self.ran: list[tuple[str, dict[str, Any]]] = []

    def run_job(self, kind: str, spec: dict[str, Any], **_: Any) -> tuple[str, dict[str, Any]]:
        self.ran.append((kind, spec))
        if kind in self.fail:
            raise self.fail[kind]
        return f"{kind}-{len(self.ran)}", getattr(self, f"_{kind}")(spec)

    def _pull(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {"base": spec["base"], "digest": "0" * 64}

    def _probe(self, spec: dict[str, Any]) -> dict[str, Any]:
        lengths = spec.get("lengths", {"rows": [[60, 6]]})["rows"]
        size = sum(tokens for tokens, _ in lengths) / len(lengths) / 60
        return self.speed | {name: rate / size for name, rate in self.speed.items() if name.endswith("_per_s")}

    def _weigh(self, spec: dict[str, Any]) -> dict[str, Any]:
        return bases.work(spec, Job(settings().home / "jobs" / f"weigh-{spec['base']}", quiet=True))

    def _train(self, data: dict[str, Any]) -> dict[str, Any]:
        spec = TrainSpec.model_validate(data)
        card = datasets.get_card(spec.dataset)
        digest = bundle.seal(
            {"adapter_config.json": b"{}"},
            base=spec.base,
            base_digest="0" * 64,
            modality="text",
            kind=card.kind,
            suffix=spec.suffix,
            system="s",
            template_digest="1" * 64,
            stop_ids=(2,),
            labels=card.labels,
            first_layer=4,
            dataset=spec.dataset,
            licence="Apache-2.0",
            spec=spec,
            versions={},
        )
        curve = tuple((step, 2.0 / step) for step in range(1, 11))
        return {
            "bundle": digest,
            "steps": 10,
            "epochs": 3,
            "seconds": 5,
            "train_loss": 0.2,
            "dev_loss": 0.2,
            "curve": curve,
        }

    def _evaluate(self, spec: dict[str, Any]) -> dict[str, Any]:
        return report(spec["bundle"] or "base", spec["split"], self.score).model_dump(mode="json")

    def _gate(self, data: dict[str, Any]) -> dict[str, Any]:
        gate = GateSpec.model_validate(data)
        reached = interval(self.score).claim_low >= gate.goal.target
        decision = GateDecision(
            task=gate.task,
            candidate=gate.candidate,
            champion=gate.champion,
            locked="2" * 64,
            look=1,
            looks_allowed=5,
            alpha=0.01,
            goal=gate.goal,
            candidate_report=report(gate.candidate, "test", self.score),
            base_report=report("base", "test", 0.0),
            champion_report=None,
            against_base=PairedComparison(other="base", difference=interval(0.9), p_value=0.0, wins=38, losses=0),
            against_champion=None,
            reached=reached,
            promoted=reached,
            reason="The lower bound meets the goal." if reached else "The lower bound misses the goal.",
        )
        records.sign(gate.project, "gate_decision", gate.candidate, gate.task, decision)
        return decision.model_dump(mode="json")

    def _mixture(self, data: dict[str, Any]) -> dict[str, Any]:
        spec = MixtureSpec.model_validate(data)
        rows = []
        for number, (ours, theirs) in enumerate(zip(self.recipe, self.routed, strict=True)):
            truth = f"yes {number}"  # each row another, or always the commonest would be right
            alone, made = (Given(truth if right == "1" else "no", 9, 1.0) for right in (theirs, ours))
            rows.append(Outcome(str(number), str(number), truth, {"a": alone}, {"a": alone}, made, alone))
        looks = (MixtureLook(locked="2" * 64, number=1, allowed=5),) if spec.split == "test" else ()
        return MixtureResult(table=table(rows), looks=looks, left_out=0).model_dump(mode="json")

    def _candidates(self, data: dict[str, Any]) -> dict[str, Any]:
        CandidatesSpec.model_validate(data)
        lines = []
        for place in range(60):
            asked = {"role": "user", "content": f"where is parcel {place} of {place * 7}"}
            answer = {"role": "assistant", "content": f"answer {place % 3}"}
            lines.append({"messages": [asked, answer], "group": f"{place:016x}"})
        artifact = artifacts.put_bytes("".join(json.dumps(line) + "\n" for line in lines).encode())
        return CandidatesResult(artifact=artifact, rows=60, left_out=3, solvable=0.9).model_dump(mode="json")

    def _mix(self, data: dict[str, Any]) -> dict[str, Any]:
        spec = MixSpec.model_validate(data)
        first = bundle.read_manifest(adapters.bundle_path(spec.mixing.parents[0]))
        fields = {name: getattr(first, name) for name in type(first).model_fields if name != "files"}
        fields |= {"suffix": spec.suffix, "mixing": spec.mixing}
        digest = bundle.seal({"adapter_config.json": b"{}"}, **fields)
        gap = PairedComparison(other="parent", difference=interval(0.0), p_value=1.0, wins=1, losses=1)
        table = [
            Retained(
                parent=parent,
                dataset=first.dataset,
                split="select",
                rows=40,
                metric="accuracy",
                by_parent=interval(0.9),
                by_mixed=interval(0.85),
                comparison=gap,
            )
            for parent in spec.mixing.parents
        ]
        return Retention(adapter=digest, mixing=spec.mixing, table=tuple(table)).model_dump(mode="json")

    def _export(self, data: dict[str, Any]) -> dict[str, Any]:
        spec = ExportSpec.model_validate(data)
        parity = Parity(
            adapter=spec.bundle,
            format=spec.format,
            numbers=spec.numbers,
            reader="nobody 1.0",
            prompts=16,
            prompts_digest="p" * 64,
            tolerance=0.1,
            largest_difference=0.02,
            equal_answers=16,
            score=0.9,
            score_exported=0.9,
            score_tolerance=0.0,
        )
        with exported.drafting(spec, 1) as draft:
            (draft / "model.bin").write_bytes(b"weights")
            return exported.publish(draft, spec, parity).model_dump(mode="json")

    def _routing(self, data: dict[str, Any]) -> dict[str, Any]:
        spec = RoutingSpec.model_validate(data)
        random = np.random.default_rng(0)
        profiles = []
        for source in spec.build:
            manifest = bundle.read_manifest(adapters.bundle_path(source.adapter))
            rows = unit(random.normal(size=(1, 8)) + 0.05 * random.normal(size=(24, 8)))
            made_by = {"embedding": spec.embedding, "embedding_digest": self.embedding_digest}
            profiles.append(profile(manifest, rows, [None] * 24, **made_by))
        profiles += [RouterProfile.model_validate(artifacts.get_json(known.profile)) for known in spec.known]
        held = {
            one.adapter: HeldOut(adapter=one.adapter, vectors=one.prototypes, right=(True,) * len(one.counts))
            for one in profiles
        }
        trial = router_card.trial(profiles, held, unit(random.normal(size=(20, 8))))
        built = [
            BuiltProfile(
                adapter=one.adapter,
                profile=artifacts.put_json(one),
                held_out=artifacts.put_json(held[one.adapter]),
                rows=one.rows,
                held_out_rows=len(one.counts) + 10,
                told_apart=self.told_apart,
                twin="f" * 64,
            )
            for one in profiles[: len(spec.build)]
        ]
        card = router_card.card(trial, profiles, spec.candidate)
        return RoutingResult(built=tuple(built), card=card).model_dump(mode="json")


class Player:
    """Plays a person: sends messages and answers, and waits for what the conversation does."""

    def __init__(self, home: Path, fake: FakeJobs) -> None:
        self.home, self.jobs, self.patience_s = home, fake, 120.0
        self.thread = tasks.create_thread("default", graph="conversation").id

    def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            return datasets.add_file("default", path.name, file).id

    def say(self, text: str, **files: str) -> None:
        run = tasks.create_run(
            "default", thread=self.thread, input={"messages": [{"role": "user", "content": text}], "files": files}
        )
        jobs.submit_run(run.id)

    def answer(self, value: Any) -> None:
        jobs.answer(tasks.find_thread(self.thread), value)

    def settled(self) -> tasks.Thread:
        """Wait until the conversation waits for the person or has ended."""
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            thread = tasks.find_thread(self.thread)
            if thread.status != "busy":
                return thread
            time.sleep(0.02)
        raise AssertionError(f"still busy; task: {self.task()}")

    def pending(self) -> dict[str, Any]:
        """The value of the pending interrupt."""
        thread = self.settled()
        assert thread.status == "interrupted", (thread, self.task())
        return dict(thread.interrupts[0]["value"])

    def approve(self) -> None:
        value = self.pending()
        self.answer({"version": value["version"], "decisions": [{"type": "approve"}]})

    def task(self) -> tasks.Task | None:
        task = tasks.find_thread(self.thread).task
        return tasks.find_task(task) if task else None

    def ended(self) -> tasks.Task:
        self.settled()
        task = self.task()
        assert task is not None and task.ended, task
        return task

    def events(self, kind: str) -> list[Event]:
        return [event for event in events.read("default", stream=self.thread, limit=10_000) if event.kind == kind]


@pytest.fixture
def player(tiny: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Player]:
    fake = FakeJobs()
    threads: list[threading.Thread] = []

    def submit(run: str) -> None:
        threads.append(threading.Thread(target=worker.advance, args=(run,), daemon=True))
        threads[-1].start()

    monkeypatch.setattr(jobs, "run_job", fake.run_job)
    monkeypatch.setattr(jobs, "submit_run", submit)
    yield Player(home, fake)
    for thread in threads:
        thread.join(10)
    checkpoint.saver().conn.close()
    graphs = (conversation, lifecycle, entry, mixture, derivation, grading)
    for cached in (checkpoint.saver, *(graph.build for graph in graphs)):
        cached.cache_clear()


@pytest.fixture
def support(tmp_path: Path) -> Callable[[], Path]:
    return lambda: fakes.support_csv(tmp_path / "support.csv")
