"""The plan of a training that a program asks for: the planner's own rules, on what the request says in its fields.

Such a client answers no question, so what is usually asked is settled by a default that is told: without a goal the
adapter is only compared with its base. What stays unclear all the same is refused.
"""

from collections.abc import Sequence
from typing import Any

from agents.choices import name_reading
from agents.goals import read_goal
from agents.limits import read_limits
from agents.proposals import Proposal
from agents.reading import Reading, Said, joined
from agents.resolve import resolve
from agents.scene import Defaults, Scene
from agents.words import normalise
from moatelier.contracts import AnyProfile, Budget, Columns, Order, OrderMethod, Question, Sourced, TaskPlan
from moatelier.contracts.plan import Fixed
from moatelier.errors import DataError, InvalidRequest

SECONDS = 6 * 3600.0
"""Of training, where the order names no budget: nobody waits before a screen."""
NO_GOAL = "The request names no goal: the adapter is compared with its base, and no claim is made."
REINFORCED = "grpo"


def plan(
    order: Order,
    *,
    profile: AnyProfile,
    test_profile: AnyProfile | None = None,
    others: Sequence[AnyProfile] = (),
    train_file: str,
    test_file: str | None = None,
    defaults: Defaults,
    asked: Any = (),
) -> TaskPlan:
    """Make the plan of an order.

    Args:
        order: What was asked for.
        profile: A look at the training file.
        test_profile: A look at the test file, if there is one.
        others: Looks at it as data of other kinds; not used, since such a request is about texts.
        train_file: Id of the training file.
        test_file: Id of the test file.
        defaults: What the service offers and does by default.
        asked: Not used: nothing is asked.

    Raises:
        InvalidRequest: Goal, budget or name cannot be read, or the file does not tell what to learn.
        DataError: The file holds no rows for the method.
    """
    defaults = defaults.of(profile.modality)
    scene = Scene(profile, test_profile if test_file else None, train_file, test_file, defaults, Proposal())
    found = resolve(_reading(order), scene)
    if not isinstance(found, TaskPlan):
        raise _unclear(found, scene.file)
    _need_rows_for(order.method, found, scene.file)
    return found.model_copy(update=_settled(order, found))


def check(order: Order) -> None:
    """Refuse at once what no file can make good. Raises InvalidRequest."""
    if unclear := _reading(order).unclear:
        raise _unclear(tuple(unclear.values()), "")


def _reading(order: Order) -> Reading:
    parts = [Reading({"seed": Said(order.seed, "As the request says."), "base": Said(order.model, "As asked for.")})]
    if order.suffix:
        parts.append(name_reading(order.suffix, order.suffix))
    if order.goal:
        parts.append(_read("goal", order.goal))
    else:
        parts.append(Reading({"target": Said(0.0, NO_GOAL, source="default")}))
    if order.budget:
        parts.append(_read("budget", order.budget))
    if order.method == "reinforcement":
        parts.append(Reading({"kind": Said("chat", "Answers are sampled and graded.")}))
        parts.append(Reading({"columns.messages": Said("messages", "The dialect's own column.")}))
    return joined(parts)


def _read(field: str, words: str) -> Reading:
    reader = {"goal": read_goal, "budget": read_limits}[field]
    reading = reader(normalise(words), asked=True)
    if reading.unclear or not reading.said:
        asked = next((question.text for question in reading.unclear.values()), "")
        raise InvalidRequest(f'"{words}" cannot be read as a {field}.', where=field, remedy=asked)
    return reading


def _unclear(questions: Sequence[Question], file: str) -> InvalidRequest:
    first = questions[0]
    return InvalidRequest(
        f"The request leaves open what to do: {first.text}",
        where=file if first.field.startswith(("columns", "kind", "modality")) else first.field,
        remedy='Send rows such as {"messages": [...]}, or start the task in a conversation, where this can be asked.',
    )


def _need_rows_for(method: OrderMethod, plan: TaskPlan, file: str) -> None:
    pairs = plan.kind.value == "preference"
    if method == "dpo" and not pairs:
        raise DataError(
            "The file holds no pairs of answers, which the method dpo learns from.",
            where=file,
            remedy='Write {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}.',
        )
    if method == "supervised" and pairs:
        raise DataError(
            "The file holds pairs of answers, which supervised training does not learn from.",
            where=file,
            remedy='Ask for {"type": "dpo"}.',
        )


def _settled(order: Order, plan: TaskPlan) -> dict[str, Any]:
    """What an order decides beyond the planner's rules."""
    changes: dict[str, Any] = {"fixed": order.fixed if order.fixed != Fixed() else None}
    if not order.budget:
        value = Budget(seconds=SECONDS, trials=1)
        reason = "Nothing was said; one trial, as such a request expects, of at most 6 hours."
        changes["budget"] = Sourced[Budget](value=value, source="default", confidence=1.0, reason=reason)
    if order.method == "reinforcement":
        reason = "Answers are sampled, graded and compared within their group."
        changes["method"] = Sourced[str](value=REINFORCED, source="user", confidence=1.0, reason=reason)
        columns = Columns(messages="messages", target=order.reference)
        changes["columns"] = plan.columns.model_copy(update={"value": columns})
    return changes
