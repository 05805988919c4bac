"""The items of a run of an eval: read from a file or the request, and a model's answer to each, where one is asked."""

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

from evals.places import filled, looked_up
from moatelier.contracts import Proposal
from moatelier.errors import DataError
from modalities.text.reading import read_table
from store import datasets, stored_evals

MOST_ITEMS = 100_000
Ask = Callable[[str, list[dict[str, str]], Mapping[str, Any]], Awaitable[Proposal]]
_ROLES = {"developer": "system"}


def read(run: stored_evals.EvalRun) -> list[dict[str, Any]]:
    """The items, `{"item": {...}, "sample": {...}}` each, the sample where the source gives one.

    Raises:
        NotFound: The file is gone.
        DataError: The file cannot be read, there are too many items, or one is not as the eval says.
    """
    source = run.source["source"]
    if source["type"] == "file_id":
        file = datasets.get_file(run.project, source["id"])
        table = read_table(datasets.file_path(run.project, file.id), file.name)
        found = [_item(record.values) for record in table.records]
    else:
        found = [_item(given) for given in source["content"]]
    if len(found) > MOST_ITEMS:
        raise DataError(f"There are more than {MOST_ITEMS} items.", where=run.id, remedy="Divide them among runs.")
    _check(found, stored_evals.get(run.project, run.eval).config.get("item_schema") or {})
    return found


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the dialect; any other row is an item itself."""
    if not isinstance(row.get("item"), Mapping):
        return {"item": dict(row)}
    sample = row.get("sample")
    return {"item": dict(row["item"])} | ({"sample": dict(sample)} if isinstance(sample, Mapping) else {})


def _check(items: list[dict[str, Any]], schema: Mapping[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema, registry=Registry())  # of its own: no `$ref` is fetched
    for number, given in enumerate(items, start=1):
        try:
            error = next(validator.iter_errors(given["item"]), None)
        except Unresolvable as failed:
            raise DataError(f"The schema refers to what it does not hold: {failed}", where="item_schema") from failed
        if error is not None:
            place = ".".join(str(part) for part in error.absolute_path)
            raise DataError(
                f"The item is not as the eval's schema says: {error.message[:300]}",
                where=f"item {number}{f', field {place}' if place else ''}",
                remedy="Correct the item, or the eval's `item_schema`.",
            )


def asks(source: Mapping[str, Any]) -> bool:
    """Whether a model is asked; else outputs are given."""
    return source["type"] in ("completions", "responses") and bool(source.get("model"))


async def sampled(source: Mapping[str, Any], item: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """What a model says to an item, as a sample.

    Raises:
        DataError: The messages name something that the item lacks.
        MoatelierError: What asking raises.
    """
    messages = _messages(source.get("input_messages"), item)
    fields, model = _fields(source.get("sampling_params") or {}), str(source["model"])
    said = await ask(model, messages, fields)
    usage = {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
    return {
        "asked": True,
        "model": model,
        "input": messages,
        "output": [{"role": "assistant", "content": said.text}],
        "output_text": said.text,
        "finish_reason": said.finish_reason or "stop",
        "usage": usage | {"total_tokens": sum(usage.values()), "cached_tokens": 0},
        **{name: fields[name] for name in ("seed", "temperature", "top_p", "max_completion_tokens") if name in fields},
    }


def _messages(template: Mapping[str, Any] | None, item: Mapping[str, Any]) -> list[dict[str, str]]:
    known = {"item": item}
    if template is None:
        turns: Any = item.get("messages") or item.get("input")
    elif template["type"] == "item_reference":
        turns = looked_up(str(template["item_reference"]), known)
    else:
        turns = [{**turn, "content": filled(_words(turn["content"]), known)} for turn in template["template"]]
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, list) or not turns or not all(isinstance(t, Mapping) and "role" in t for t in turns):
        raise DataError(
            "The item holds no messages to be asked.",
            where="input_messages",
            remedy='Send a template, or the place of a list of messages: {"item_reference": "item.messages"}.',
        )
    return [{"role": _ROLES.get(t["role"], str(t["role"])), "content": _words(t.get("content"))} for t in turns]


def _words(content: Any) -> str:
    parts = content if isinstance(content, list) else [content]
    return "".join(str(part.get("text", "")) if isinstance(part, Mapping) else str(part) for part in parts)


def _fields(params: Mapping[str, Any]) -> dict[str, Any]:
    names = ("max_completion_tokens", "seed", "temperature", "top_p", "response_format")
    return {name: params[name] for name in names if params.get(name) is not None}


def shown(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as graders see it: its text also as JSON, if it is some."""
    told = dict(sample)
    if "output_text" not in told and isinstance(told.get("output"), list) and told["output"]:
        told["output_text"] = _words(told["output"][-1].get("content"))
    with suppress(ValueError, TypeError, RecursionError):
        told.setdefault("output_json", json.loads(told["output_text"]) if "output_text" in told else None)
    return told
