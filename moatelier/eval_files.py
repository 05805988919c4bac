"""Evals from files: those of the OpenAI API as JSON, and promptfoo's YAML, as evals that `/v1/evals` takes.

Of promptfoo: prompts (texts, chats as JSON, `file://` beside the file), `defaultTest`, `tests` with `vars`, `assert`.
What an assertion asks for is a grader here; one that runs code has none and is refused by name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moatelier.errors import DataError

SAMPLE = "{{ sample.output_text }}"
RUBRIC = "You judge an answer by a rule. Rule: {{ item.%s }}"
_PLACE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_CHECKS = {"equals": "eq", "not-equals": "ne", "contains": "like", "icontains": "ilike"}
_ROUGE = {"rouge-n": "rouge_1", "bleu": "bleu", "gleu": "gleu", "meteor": "meteor", "levenshtein": "fuzzy_match"}
_RUBRICS = ("llm-rubric", "model-graded-closedqa", "g-eval")
_LEAST = {"similar": 0.75, "rouge-n": 0.75, "bleu": 0.5, "gleu": 0.5, "meteor": 0.5, "levenshtein": 0.75}
"""Thresholds where an assertion names none; those of promptfoo."""


@dataclass(frozen=True)
class Planned:
    """One eval with its items.

    Attributes:
        eval: The body of `POST /v1/evals`.
        items: What is judged, `{"item": ..., "sample": ...}` each.
        messages: What a model is asked, as `input_messages`; None where items hold their messages or outputs.
    """

    eval: dict[str, Any]
    items: list[dict[str, Any]]
    messages: dict[str, Any] | None


def read(path: Path, *, judge: str = "", items: Path | None = None) -> list[Planned]:
    """The evals that a file holds.

    Args:
        path: `.json` of the OpenAI API, `.yaml` or `.yml` of promptfoo.
        judge: The model that judges by rubrics; needed where the file has one.
        items: JSON lines of items, where the file holds none.

    Raises:
        DataError: The file cannot be read, has no rows, or asks for what is not there; says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise DataError("The file cannot be read.", where=str(path), remedy=str(error)) from error
    if not isinstance(raw, Mapping):
        raise DataError("The file holds no eval.", where=str(path), remedy=_REMEDY)
    if "testing_criteria" in raw or "eval" in raw:
        return [_openai(raw, path, items)]
    if "prompts" in raw:
        return _promptfoo(raw, path, judge)
    raise DataError("The file holds no eval.", where=str(path), remedy=_REMEDY)


_REMEDY = "An OpenAI eval has `testing_criteria`, a promptfoo file has `prompts` and `tests`."


# ---------------------------------------------------------------- OpenAI


def _openai(raw: Mapping[str, Any], path: Path, items: Path | None) -> Planned:
    body = dict(raw.get("eval", raw))
    source = body.pop("data_source", raw.get("data_source")) or {}
    held = body.pop("items", raw.get("items")) or (source.get("source") or {}).get("content")
    if items is not None:
        held = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not held:
        raise DataError(
            "The eval has no rows.",
            where=str(path),
            remedy="Give them with --items FILE.jsonl, or as `items` in the file.",
        )
    config = dict(body.get("data_source_config") or {"type": "custom", "item_schema": {"type": "object"}})
    if "schema" in config and "item_schema" not in config:  # as the API tells it, not as it is asked
        whole = config.pop("schema")
        config["item_schema"] = whole.get("properties", {}).get("item", {"type": "object"})
        config["include_sample_schema"] = "sample" in whole.get("properties", {})
    asked = {"name": body.get("name") or path.stem, "data_source_config": config}
    asked["testing_criteria"] = body.get("testing_criteria") or []
    given = [each if isinstance(each, Mapping) and "item" in each else {"item": each} for each in held]
    return Planned(asked, [dict(each) for each in given], source.get("input_messages"))


# ---------------------------------------------------------------- promptfoo


def _promptfoo(raw: Mapping[str, Any], path: Path, judge: str) -> list[Planned]:
    prompts = [_prompt(one, path) for one in _listed(raw["prompts"])]
    tests = raw.get("tests")
    if not isinstance(tests, list) or not tests or not prompts:
        raise DataError("The file has no tests.", where=str(path), remedy="List `prompts`, and `tests` with `assert`.")
    usual = raw.get("defaultTest") or {}
    shapes: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {}
    for number, test in enumerate(tests):
        item, criteria = _test(usual, test, f"{path}, tests.{number}", judge)
        shapes.setdefault(json.dumps(criteria, sort_keys=True), []).append((item, criteria))
    found = []
    for place, (messages, shape) in enumerate((messages, shape) for messages in prompts for shape in shapes.values()):
        name = f"{raw.get('description') or path.stem} {place + 1}" if len(prompts) * len(shapes) > 1 else path.stem
        body = {"name": name, "data_source_config": _CUSTOM, "testing_criteria": shape[0][1]}
        template = {"type": "template", "template": messages}
        found.append(Planned(body, [{"item": item} for item, _ in shape], template))
    return found


_CUSTOM = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _prompt(raw: Any, path: Path) -> list[dict[str, str]]:
    """A prompt as messages whose places are those of items."""
    text = raw.get("raw") or raw.get("id") if isinstance(raw, Mapping) else raw
    if not isinstance(text, str):
        raise DataError("A prompt is no text.", where=f"{path}, prompts")
    if text.startswith("file://"):
        text = _beside(path, text.removeprefix("file://"))
    try:
        turns = json.loads(text)
    except ValueError:
        turns = [{"role": "user", "content": text}]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and "role" in turn for turn in turns):
        turns = [{"role": "user", "content": text}]
    return [{"role": turn["role"], "content": _PLACE.sub(r"{{ item.\1 }}", str(turn["content"]))} for turn in turns]


def _beside(path: Path, name: str) -> str:
    file = (path.parent / name).resolve()
    if not file.is_relative_to(path.parent.resolve()) or not file.is_file():
        raise DataError("There is no such file beside the eval.", where=name, remedy="Put it into the same folder.")
    return file.read_text(encoding="utf-8")


def _test(usual: Mapping[str, Any], test: Any, where: str, judge: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A test as an item, which holds what its assertions compare with, and the graders that compare."""
    if not isinstance(test, Mapping):
        raise DataError("A test is no record.", where=where)
    item = {**(usual.get("vars") or {}), **(test.get("vars") or {})}
    asserts = [*_listed(usual.get("assert") or []), *_listed(test.get("assert") or [])]
    if not asserts:
        raise DataError("A test asserts nothing.", where=where, remedy="Give it an `assert`.")
    criteria = []
    for number, one in enumerate(asserts):
        field = f"expected_{number}"
        criteria.append(_grader(one, field, f"{where}.assert.{number}", judge))
        value = one.get("value", "")
        item[field] = _PLACE.sub(lambda at: str(item.get(at[1], at[0])), value) if isinstance(value, str) else value
    return item, criteria


def _grader(one: Any, field: str, where: str, judge: str) -> dict[str, Any]:
    kind = one.get("type") if isinstance(one, Mapping) else None
    place = f"{{{{ item.{field} }}}}"
    name = f"{kind} {field.removeprefix('expected_')}"
    if kind in _CHECKS:
        return {
            "type": "string_check",
            "name": name,
            "input": SAMPLE,
            "reference": place,
            "operation": _CHECKS[kind],
        }
    if kind == "similar" or kind in _ROUGE:
        least = one.get("threshold", _LEAST[kind])
        named = {"type": "text_similarity", "name": name, "input": SAMPLE, "reference": place}
        return named | {"evaluation_metric": _ROUGE.get(kind, "cosine"), "pass_threshold": least}
    if kind in _RUBRICS:
        if not judge:
            raise DataError("A rubric needs a model that judges.", where=where, remedy="Name one: --judge MODEL.")
        turns = [{"role": "system", "content": RUBRIC % field}, {"role": "user", "content": SAMPLE}]
        return {"type": "label_model", "name": name, "model": judge, "input": turns, **_PASSES}
    raise DataError(
        f"There is no grader for the assertion {kind!r}.",
        where=where,
        remedy=f"Use one of: {', '.join([*_CHECKS, 'similar', *_ROUGE, *_RUBRICS])}. Code is not run.",
    )


_PASSES = {"labels": ["pass", "fail"], "passing_labels": ["pass"]}
