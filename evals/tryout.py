"""What the gate tries of a candidate beside the locked rows: suites, pace and size. No look is needed for it."""

import statistics
import time
from dataclasses import dataclass, field

from evals.deciding import BASE
from evals.guards import open_guard
from evals.suite import built_in
from evals.suite_run import run
from moatelier.contracts import GateSpec
from moatelier.contracts.suites import SuiteResult, TextItem
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job, write_atomically
from modalities.bundle import bundle_folder
from modalities.text.documents import pieces
from serving.engine import TextEngine
from serving.engines import Engine

ROUNDS = 5
"""Of timing, in turns; the median counts."""


@dataclass(frozen=True)
class Tried:
    """The fields of a `GateEvidence` that need no look."""

    suites: dict[str, dict[str, SuiteResult]] = field(default_factory=dict)
    paces: dict[str, float] = field(default_factory=dict)
    bundle_bytes: int = 0


def tryout(gate: GateSpec, engine: Engine, job: Job) -> Tried:
    """Try base and candidate on what the conditions ask for; only texts have suites and are timed.

    A restarted job reads the suites' results from its folder.

    Args:
        gate: What is decided.
        engine: With the candidate loaded.
        job: Told of progress; asked whether to stop.

    Raises:
        InvalidRequest: No such guard.
        Cancelled: The job was asked to stop.
    """
    wanted = gate.conditions
    if wanted is None:
        return Tried()
    folder = bundle_folder(gate.candidate)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not isinstance(engine, TextEngine):
        return Tried(bundle_bytes=size)
    asked = [name for name in ("retention", "safety") if getattr(wanted, name)]
    suites = {name: _suite(engine, gate, name, number, job) for number, name in enumerate(asked)}
    return Tried(suites, _paces(engine, gate.candidate), size)


def _suite(engine: TextEngine, gate: GateSpec, name: str, number: int, job: Job) -> dict[str, SuiteResult]:
    assert gate.conditions is not None
    suite, guard = built_in(name), open_guard(gate.conditions.guard)
    found = {}
    for turn, subject in enumerate((None, gate.candidate)):
        key = digest_json([suite.digest, gate.base, subject, gate.conditions.guard])
        path = job.folder / "suites" / f"{key[:32]}.json"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            before = 1_000_000 + 100_000 * (2 * number + turn)  # steps of a job's events are unique
            result = run(
                engine,
                suite,
                adapter=subject,
                guard=guard,
                job=job,
                guard_name=gate.conditions.guard,
                before=before,
            )
            write_atomically(path, canonical_json(result.model_dump(mode="json")))
        found[subject or BASE] = SuiteResult.model_validate_json(path.read_bytes())
    return found


def _paces(engine: TextEngine, candidate: str) -> dict[str, float]:
    """Seconds that the same texts take with the base and with the candidate, in turns."""
    texts = [item.text for group in built_in("retention").groups for item in group.items if isinstance(item, TextItem)]
    rows = [ids for text in texts[:8] for ids in pieces(engine.base.tokenizer, text, engine.context)]
    times: dict[str | None, list[float]] = {None: [], candidate: []}
    for _ in range(ROUNDS):
        for subject, found in times.items():
            started = time.perf_counter()
            engine.score(rows, adapter=subject)
            found.append(time.perf_counter() - started)
    return {subject or BASE: round(statistics.median(found[1:]), 6) for subject, found in times.items()}
