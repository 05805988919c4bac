"""Try a model of this machine on a suite or on tasks of lm-evaluation-harness: what `moatelier eval` starts.

    python -m evals.trying --model NAME --suite retention|safety|FILE [--guard UPSTREAM/MODEL]
    python -m evals.trying --model NAME --harness TASK[,TASK] [--limit N]
    python -m evals.trying --model NAME --measures ROWS.jsonl [--limit N]

An adapter is compared with its base on the same items. Exit status: 0; 3 where a retention or safety suite shows it to
be worse, or does not show it to be no worse; 1 for an error.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evals import conditions, measuring
from evals.guards import open_guard
from evals.judging import over_upstream
from evals.suite import built_in, read
from evals.suite_run import run
from moatelier.contracts.suites import Suite
from moatelier.errors import DataError, InvalidRequest, MoatelierError
from moatelier.job import Job
from moatelier.settings import settings
from modalities.bundle import bundle_folder
from serving.engine import TextEngine
from store import adapters

WORSE = 3


def tried(suite: Suite, model: str, guard: str = "") -> dict[str, Any]:
    """What base and adapter do on a suite, by axis, and whether the adapter is no worse.

    Raises:
        NotFound: There is no such adapter.
        InvalidRequest: It is none for texts, or there is no such guard.
    """
    base, bundle = subject(model)
    judge, engine = open_guard(guard), TextEngine(base)
    with TemporaryDirectory() as folder:
        job = Job(Path(folder), quiet=True)
        results = {"base": run(engine, suite, adapter=None, guard=judge, job=job, guard_name=guard)}
        if bundle:
            engine.load_adapter(bundle, bundle_folder(bundle))
            results[model] = run(engine, suite, adapter=bundle, guard=judge, job=job, guard_name=guard, before=10_000)
    told: dict[str, Any] = {"suite": suite.name, "digest": suite.digest, "items": suite.size, "subjects": {}}
    for name, result in results.items():
        axes = {axis: rate.model_dump(mode="json") for axis, rate in conditions.rates(result).items()}
        nats, tokens = sum(i.nats or 0.0 for i in result.items), sum(i.tokens for i in result.items)
        told["subjects"][name] = {"axes": axes, "loss": nats / tokens if tokens else None, "seconds": result.seconds}
    if bundle:
        judged = conditions.safety if suite.kind == "safety" else conditions.retention
        told["condition"] = judged(results["base"], results[model]).model_dump(mode="json")
    return told


def subject(model: str) -> tuple[str, str | None]:
    """A base and the digest of an adapter on it, None for the base itself.

    Raises:
        NotFound: Neither a base for texts nor an adapter has this name.
        InvalidRequest: It is none for texts.
    """
    if model in settings().text_bases:
        return model, None
    record = adapters.get(settings().project, model)
    if record.manifest.modality != "text":
        raise InvalidRequest(
            "Suites and harness tasks are for texts.", where=model, remedy="Name an adapter of a base for texts."
        )
    return record.manifest.base, record.digest


def harness(tasks: str, model: str, limit: int | None, include: str | None) -> dict[str, Any]:
    """What the harness finds; see `evals.harness`.

    Raises:
        InvalidRequest: The extra is not installed, or there is no such task.
    """
    base, bundle = subject(model)
    try:
        module = import_module("evals.harness")
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            "lm-evaluation-harness is not installed.", where="harness", remedy='Run: pip install "moatelier[harness]"'
        ) from error
    found: dict[str, Any] = module.evaluate(base, bundle, tasks.split(","), limit=limit, include=include)
    return found


def measured(rows: str, model: str, limit: int | None, judge: str = "") -> dict[str, Any]:
    """The measures of `evals.measuring` on a file's rows, and what a judge prefers where they hold another's answer.

    Raises:
        DataError: The file cannot be read, or has no rows.
        NotFound: There is no such model.
        InvalidRequest: There is no such judge.
    """
    path = Path(rows)
    try:
        held = measuring.read(path.read_text(encoding="utf-8"), path.name)[:limit]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("The file cannot be read.", where=rows, remedy=str(error)) from error
    base, bundle = subject(model)
    engine = TextEngine(base)
    if bundle:
        engine.load_adapter(bundle, bundle_folder(bundle))
    told = measuring.measure(engine, held, adapter=bundle)
    pairs = [
        (row.question, str(found["answer"]), row.other)
        for row, found in zip(held, told["rows"], strict=True)
        if row.other
    ]
    judged = {"preferred": over_upstream(pairs, judge).model_dump(mode="json")} if judge and pairs else {}
    return told | judged


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Try a model on a suite or on tasks of lm-evaluation-harness.")
    parser.add_argument("--model", default=settings().base)
    parser.add_argument("--suite")
    parser.add_argument("--harness")
    parser.add_argument("--measures")
    parser.add_argument("--include", help="A folder with further tasks of the harness.")
    parser.add_argument("--guard", default="")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        if asked.harness:
            told = harness(asked.harness, asked.model, asked.limit, asked.include)
        elif asked.measures:
            told = measured(asked.measures, asked.model, asked.limit, asked.guard)
        else:
            told = tried(named(asked.suite or "retention"), asked.model, asked.guard)
    except MoatelierError as error:
        print(
            json.dumps({"error": error.to_dict()}) if asked.json else f"error [{error.code}]: {error}", file=sys.stderr
        )
        return 1
    print(json.dumps(told, ensure_ascii=False) if asked.json else shown(told))
    return 0 if told.get("condition", {"held": True})["held"] else WORSE


def named(suite: str) -> Suite:
    """A suite by its name or file. Raises NotFound, and DataError as `evals.suite.read`."""
    path = Path(suite)
    return read(path.read_text(encoding="utf-8"), path.name) if path.is_file() else built_in(suite)


def shown(told: dict[str, Any]) -> str:
    """What was found, in lines."""
    if "means" in told:
        lines = [f"{name}: {value:.3f}" for name, value in told["means"].items()]
        return "\n".join([*lines, *([f"preferred: {json.dumps(told['preferred'])}"] if "preferred" in told else [])])
    if "suite" not in told:
        return "\n".join(f"{task}: {json.dumps(found)}" for task, found in told["results"].items())
    lines = [f"{told['suite']}, {told['items']} items"]
    for name, found in told["subjects"].items():
        axes = [
            f"{axis} {rate['point']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"
            for axis, rate in found["axes"].items()
        ]
        loss = [] if found["loss"] is None else [f"loss {found['loss']:.3f}"]
        lines.append(f"  {name}: {', '.join([*axes, *loss])}")
    return "\n".join([*lines, *([told["condition"]["text"]] if "condition" in told else [])])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
