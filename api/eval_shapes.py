"""Evals, runs and output items as the openai package reads them (its types/evals)."""

from typing import Any

from graphs import eval_runs
from store import stored_evals

SAMPLE_SCHEMA = {
    "type": "object",
    "properties": {
        "output_text": {"type": "string"},
        "output_json": {},
        "model": {"type": "string"},
        "finish_reason": {"type": "string"},
    },
}
STATUSES = {True: "pass", False: "fail", None: "error"}


def eval_json(found: stored_evals.StoredEval) -> dict[str, Any]:
    """An `EvalRetrieveResponse`."""
    return {
        "id": found.id,
        "object": "eval",
        "created_at": int(found.created_at.timestamp()),
        "name": found.name,
        "metadata": found.metadata,
        "data_source_config": {"type": "custom", "schema": _schema(found.config)},
        "testing_criteria": found.criteria,
    }


def _schema(config: dict[str, Any]) -> dict[str, Any]:
    parts = {"item": config["item_schema"]}
    if config.get("include_sample_schema"):
        parts["sample"] = SAMPLE_SCHEMA
    return {"type": "object", "properties": parts, "required": list(parts)}


def run_json(run: stored_evals.EvalRun, base_url: str) -> dict[str, Any]:
    """A `RunRetrieveResponse`; of what goes on, items are counted as far as it is, and criteria in the end."""
    told = run.told or eval_runs.so_far(run)
    counts = told["counts"]
    return {
        "id": run.id,
        "object": "eval.run",
        "eval_id": run.eval,
        "created_at": int(run.created_at.timestamp()),
        "name": run.name,
        "status": run.status,
        "model": run.source.get("model") or "",
        "metadata": run.metadata,
        "data_source": run.source,
        "error": run.error,
        "report_url": f"{base_url.rstrip('/')}/v1/evals/{run.eval}/runs/{run.id}/output_items",
        "result_counts": {name: counts[name] for name in ("total", "passed", "failed", "errored")},
        "per_testing_criteria_results": [
            {"testing_criteria": name, **tally} for name, tally in told["criteria"].items()
        ],
        "per_model_usage": [_usage(model, used) for model, used in told["usage"].items()],
    }


def _usage(model: str, used: dict[str, int]) -> dict[str, Any]:
    total = used["prompt_tokens"] + used["completion_tokens"]
    return {"model_name": model, **used, "cached_tokens": 0, "total_tokens": total}


def item_json(run: stored_evals.EvalRun, item: stored_evals.EvalItem) -> dict[str, Any]:
    """An `OutputItemRetrieveResponse`."""
    return {
        "id": item_id(run.id, item.number),
        "object": "eval.run.output_item",
        "created_at": int(item.created_at.timestamp()),
        "eval_id": run.eval,
        "run_id": run.id,
        "datasource_item_id": item.number,
        "datasource_item": item.body["item"],
        "status": STATUSES[item.passed],
        "results": item.body["results"],
        "sample": _sample(item.body.get("sample") or {}, item.body.get("error")),
    }


def _sample(sample: dict[str, Any], error: dict[str, Any] | None) -> dict[str, Any]:
    text = sample.get("output_text")
    output = sample.get("output") or ([] if text is None else [{"role": "assistant", "content": text}])
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cached_tokens": 0}
    return {
        "input": sample.get("input", []),
        "output": output,
        "finish_reason": sample.get("finish_reason", ""),
        "model": sample.get("model", ""),
        "usage": usage | sample.get("usage", {}),
        "error": error,
        "temperature": sample.get("temperature", 1.0),
        "top_p": sample.get("top_p", 1.0),
        "seed": sample.get("seed", 0),
        "max_completion_tokens": sample.get("max_completion_tokens", 0),
    }


def item_id(run: str, number: int) -> str:
    """The id of an item."""
    return f"outputitem-{run}-{number}"


def item_number(run: str, id: str) -> int | None:
    """The number in an item's id; None where it is none of this run's."""
    number = id.removeprefix(f"outputitem-{run}-")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None
