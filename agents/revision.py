"""An edited approval: a plan with the fields that a person changed, each checked like a plan's own."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from agents.choices import RESERVED
from agents.cues import METRIC_NAMES
from agents.goals import read_goal
from agents.kinds import KINDS, METRICS, ROWS, fitting
from agents.limits import read_limits
from agents.scene import Defaults, columns_of
from agents.spaces import filled, read_search
from agents.starts import SOLVED, comparable
from agents.words import normalise
from moatelier.contracts import AnyProfile, Columns, Contract, ImageColumns, TaskPlan
from moatelier.errors import InvalidRequest
from moatelier.ids import slug

SOURCED = ("kind", "columns", "goal", "budget", "method", "search", "base", "private", "too_long")
"""The fields a person may change that carry where they come from; `name`, `seed`, `limits`, `conditions` have none."""


def revise(
    plan: TaskPlan, edits: Mapping[str, Any], profile: AnyProfile | None = None, defaults: Defaults | None = None
) -> TaskPlan:
    """The plan with a person's changes.

    Args:
        plan: The plan that was shown.
        edits: Field -> new value. A value may be a part of the old one (`{"goal": {"target": 0.9}}`), have the form
            that was shown (`{"value": ..., "source": ...}`), or be words for goal, budget and search
            (`"92 % accuracy"`).
            Fields that did not change may be sent along.
        profile: For checking column names against the file.
        defaults: For checking base and method against what is on offer.

    Raises:
        InvalidRequest: A field cannot be changed or its value cannot be used; `where` names it.
    """
    shown = plan.model_dump(mode="json")
    changes: dict[str, Any] = {}
    for field, value in edits.items():
        if field in shown and value == shown[field]:
            continue
        if field in SOURCED:
            changes |= _sourced(plan, field, value)
        elif field in ("name", "seed"):
            changes[field] = value
        elif field in ("limits", "conditions"):
            both = isinstance(value, Mapping)
            changes[field] = {**(shown.get(field) or {}), **value} if both else value
        else:
            raise InvalidRequest(
                "This field of a plan cannot be changed.",
                where=field,
                remedy=f"Change one of: {', '.join((*SOURCED, 'limits', 'conditions', 'name', 'seed'))}.",
            )
    if not changes:
        return plan
    revised = _validated(plan, changes)
    _check(revised, profile, defaults)
    return revised


def _sourced(plan: TaskPlan, field: str, value: Any) -> dict[str, Any]:
    old = getattr(plan, field)
    if isinstance(value, Mapping) and "value" in value:
        value = value["value"]
    plain = old.value.model_dump(mode="json") if isinstance(old.value, Contract) else old.value
    if isinstance(value, str) and field in ("goal", "budget"):
        value = _from_words(field, value)
    if field == "search":
        value = _searched(plan, value)
    if isinstance(value, Mapping) and isinstance(plain, dict):
        value = plain | dict(value)
    if value == plain:
        return {}
    reason = f"You changed it from {_shown(plain)} before approving."
    return {field: {"value": value, "source": "user", "confidence": 1.0, "reason": reason}}


def _from_words(field: str, words: str) -> dict[str, Any]:
    readers: dict[str, Callable[..., Any]] = {"goal": read_goal, "budget": read_limits}
    reading = readers[field](normalise(words), asked=True)
    if reading.unclear or not reading.said:
        asked = next((question.text for question in reading.unclear.values()), "")
        raise InvalidRequest(f'"{words}" cannot be read as a {field}.', where=field, remedy=asked or _FORMS[field])
    values = {name: said.value for name, said in reading.said.items()}
    plain = {"right": "accuracy", "recall": "recall_at_1"}
    return {name: plain.get(value, value) if name == "metric" else value for name, value in values.items()}


def _searched(plan: TaskPlan, value: Any) -> Any:
    """A search from words, or from a record of which a part may be missing."""
    if isinstance(value, str):
        reading, _ = read_search(normalise(value), ())
        if "search" not in reading.said:
            asked = next((question.text for question in reading.unclear.values()), "")
            remedy = asked or 'Write it like "search over ranks 4, 8 and learning rates".'
            raise InvalidRequest(f'"{value}" cannot be read as a search.', where="search", remedy=remedy)
        return filled(reading.said["search"].value, plan.method.value, (plan.method.value,)).model_dump(mode="json")
    if isinstance(value, Mapping) and value.get("by") == "none":
        return {**value, "space": {}}
    return value


_FORMS = {"goal": 'Write it like "accuracy of at least 92 %".', "budget": 'Write it like "20 minutes, 3 trials".'}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items() if each is not None)
    return str(value)


def _validated(plan: TaskPlan, changes: dict[str, Any]) -> TaskPlan:
    notes = [note for note in plan.notes if not note.startswith("Locked rows: ") or "goal" not in changes]
    try:
        return TaskPlan.model_validate(plan.model_dump(mode="json") | changes | {"notes": notes})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "value")
        raise InvalidRequest(
            f"The changed plan is not valid: {first['msg']}.",
            where=place,
            remedy="Correct this field and approve again.",
        ) from error


def _check(plan: TaskPlan, profile: AnyProfile | None, defaults: Defaults | None) -> None:
    if plan.name != slug(plan.name) or plan.name in RESERVED:
        raise InvalidRequest(
            "The name must be lower-case letters, digits and dashes, and not a reserved word.",
            where="name",
            remedy=f'Try "{slug(plan.name)}-1".',
        )
    _check_conditions(plan)
    _check_columns(plan, profile)
    _check_kind(plan)
    defaults = defaults.of(plan.modality.value) if defaults else None
    for field, offered in (
        ("base", defaults and (*defaults.bases, defaults.base)),
        ("method", defaults and fitting(defaults.methods, plan.kind.value)),
    ):
        value = getattr(plan, field).value
        if offered and value not in offered:
            raise InvalidRequest(
                f'There is no {field} "{value}" here.',
                where=field,
                remedy=f"Use one of: {', '.join(sorted(set(offered)))}.",
            )

    if defaults:
        _check_search(plan, fitting(defaults.methods, plan.kind.value))


def _check_search(plan: TaskPlan, offered: tuple[str, ...]) -> None:
    search = plan.search.value
    methods = [str(each) for each in search.space.get("method", (plan.method.value,))]
    fit = comparable(offered) if len(methods) > 1 else tuple(each for each in offered if each not in SOLVED)
    if search.by != "none" and (unfit := [each for each in methods if each not in fit]):
        raise InvalidRequest(
            f"The method {', '.join(unfit)} cannot be searched here.",
            where="search.method",
            remedy=f"Search: {', '.join(fit)}.",
        )


def _check_kind(plan: TaskPlan) -> None:
    kind, metric, kinds = plan.kind.value, plan.goal.value.metric, KINDS.get(plan.modality.value, ())
    if kinds and kind not in kinds:
        raise InvalidRequest(
            f"Data of {plan.modality.value} are not learnt as {kind}.",
            where="kind",
            remedy=f"Use one of: {', '.join(kinds)}.",
        )
    if metric not in METRICS[kind]:
        raise InvalidRequest(
            f"There is no {METRIC_NAMES[metric]} of {ROWS[kind]}.",
            where="goal.metric",
            remedy=f"Use {METRICS[kind][0]}.",
        )


def _check_conditions(plan: TaskPlan) -> None:
    wanted = plan.conditions
    if wanted and (wanted.retention or wanted.safety) and plan.modality.value != "text":
        raise InvalidRequest(
            "The suites are of texts; this task is of something else.",
            where="conditions",
            remedy="Set `retention` and `safety` to false; `size_mb` and `approval` can be asked for.",
        )


def _check_columns(plan: TaskPlan, profile: AnyProfile | None) -> None:
    columns = plan.columns.value
    if isinstance(columns, Columns) and plan.modality.value == "text":
        _check_text_columns(plan, columns)
    if isinstance(columns, ImageColumns):
        _check_image_columns(plan, columns)
    if profile is None:
        return
    real = columns_of(profile)
    for role, name in columns.model_dump().items():
        if name is not None and name not in real:
            raise InvalidRequest(
                f'There is no column "{name}" in {profile.name}.',
                where=f"columns.{role}",
                remedy=f"Use one of: {', '.join(real)}." if real else "It has no table.",
            )


def _check_image_columns(plan: TaskPlan, columns: ImageColumns) -> None:
    found, role = plan.kind.value == "retrieval", "caption" if plan.kind.value == "retrieval" else "label"
    if not getattr(columns, role) or (found and columns.label):
        what = "Pictures are found by a column of captions alone." if found else "Pictures are sorted by their labels."
        raise InvalidRequest(what, where=f"columns.{role}", remedy=f'Name it: {{"{role}": "..."}}, and no other.')


def _check_text_columns(plan: TaskPlan, columns: Columns) -> None:
    if plan.kind.value == "classification" and (not columns.input or not columns.target):
        raise InvalidRequest(
            "Classification needs an input column and a target column.", where="columns", remedy="Name both."
        )
    if plan.kind.value == "chat" and not columns.messages and not (columns.input and columns.target):
        raise InvalidRequest(
            "Chat needs a column with conversations, or input and target.", where="columns.messages", remedy="Name it."
        )
    if (role := {"preference": "rejected", "thumbs": "thumb"}.get(plan.kind.value)) and not (
        columns.input and columns.target and getattr(columns, role)
    ):
        raise InvalidRequest(
            f"Preferences need an input, a target and a {role} column.", where=f"columns.{role}", remedy="Name it."
        )
    if columns.input and columns.input == columns.target:
        raise InvalidRequest(
            "Input and target are the same column.", where="columns.target", remedy="Name two different columns."
        )
