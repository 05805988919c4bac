"""`moatelier eval`: a file's evals through `/v1/evals`; suites and harness tasks on this machine's own models."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from moatelier import eval_files
from moatelier.client import Client
from moatelier.errors import InvalidRequest
from moatelier.options import NOT_REACHED
from moatelier.show import console

POLL_S = 0.3
OPEN = ("queued", "in_progress")
HARNESS = "harness:"


def is_local(what: str) -> bool:
    """Whether it is tried past the service: a suite by its name or file, rows to be measured, tasks of the harness."""
    path = Path(what)
    if what.startswith(HARNESS):
        return True
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return any(line.startswith("groups:") for line in path.read_text(encoding="utf-8").splitlines())
    return not path.suffix or path.suffix == ".jsonl"


def locally(what: str, model: str, guard: str, limit: int | None, as_json: bool) -> int:
    """Try a suite or harness tasks in a process of their own, which may load the model; its exit status."""
    command = [sys.executable, "-m", "evals.trying", "--model", model]
    if what.startswith(HARNESS):
        command += ["--harness", what.removeprefix(HARNESS)]
    else:
        command += ["--measures" if what.endswith(".jsonl") else "--suite", what]
    command += ["--guard", guard] if guard else []
    command += ["--limit", str(limit)] if limit else []
    return subprocess.run([*command, *(["--json"] if as_json else [])], check=False).returncode


def run(
    client: Client,
    what: Path,
    model: str,
    *,
    judge: str,
    items: Path | None,
    limit: int | None,
    least: float | None,
    as_json: bool,
) -> int:
    """Run a file's evals and tell what was found; the exit status.

    Args:
        client: Of the service.
        what: The file.
        model: Who is asked; empty where the items hold outputs.
        judge: Who judges by rubrics.
        items: JSON lines of items, where the file holds none.
        limit: So many items of each eval at most.
        least: The share of items that must pass; None accepts any.
        as_json: Print one JSON object.

    Raises:
        DataError: The file cannot be used.
        MoatelierError: What the service answers.
    """
    planned = eval_files.read(what, judge=judge, items=items)
    ended = [_ended(client, one, model, limit) for one in planned]
    passed, total = (sum(run_["result_counts"][name] for run_ in ended) for name in ("passed", "total"))
    told = {"runs": ended, "passed": passed, "total": total}
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
    else:
        _show(ended)
    failed = any(run_["status"] != "completed" for run_ in ended)
    return 1 if failed else NOT_REACHED if least is not None and passed < least * max(total, 1) else 0


def _ended(client: Client, planned: eval_files.Planned, model: str, limit: int | None) -> dict[str, Any]:
    sampled = all("sample" in each for each in planned.items)
    if not sampled and not model:
        raise InvalidRequest("Nobody is named to answer.", where="--model", remedy="Name a model: -m MODEL.")
    made = client.call("POST", "/v1/evals", json=planned.eval)
    source: dict[str, Any] = {"type": "jsonl" if sampled else "completions"}
    source["source"] = {"type": "file_content", "content": planned.items[:limit]}
    if not sampled:
        source |= {"model": model, "sampling_params": {"temperature": 0, "max_completion_tokens": 256}}
        source |= {"input_messages": planned.messages} if planned.messages else {}
    body = {"name": f"{planned.eval['name']} {model}".strip(), "data_source": source}
    found: dict[str, Any] = client.call("POST", f"/v1/evals/{made['id']}/runs", json=body)
    while found["status"] in OPEN:
        time.sleep(POLL_S)
        found = client.call("GET", f"/v1/evals/{made['id']}/runs/{found['id']}")
    return found


def _show(ended: list[dict[str, Any]]) -> None:
    table = Table(title="evals", title_justify="left")
    for heading in ("eval", "criterion", "passed", "failed", "of items", "not judged"):
        table.add_column(heading)
    for one in ended:
        counts = one["result_counts"]
        for tally in one["per_testing_criteria_results"]:
            cells = (one["name"], tally["testing_criteria"], tally["passed"], tally["failed"])
            table.add_row(*(escape(str(cell)) for cell in (*cells, counts["total"], counts["errored"])))
        if one["error"]:
            table.add_row(escape(one["name"]), escape(one["error"]["message"]), "", "", "", "")
    console.print(table)
