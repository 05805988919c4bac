"""What the first trial of a plan takes here, told before a person approves it, and refused where it does not fit."""

from typing import Any

from agents import costs
from agents.costs import Work
from agents.starts import start
from agents.trainer import batch_rows, first_epochs, usual_epochs
from moatelier.contracts import TaskPlan
from moatelier.errors import ResourceExhausted
from moatelier.memory import available_bytes, gigabytes
from moatelier.settings import settings

CHOSEN_MAY_EXCEED = 1.5
"""A trial that a person chose for its forecast is not refused for what a second measure, of fewer rows a step, says: up
to so many times the budget, its epochs are cut to the time instead."""


def tried(plan: TaskPlan, rows: int) -> dict[str, Any]:
    """What the probe tries of the plan's method; of pictures and recordings it tries what stands for all methods."""
    if plan.modality.value != "text":
        return {}
    usual = start(plan.method.value)
    # Sampled answers are not rehearsed: of such a training the forecast tells the steps on whole rows only.
    tried = "lora" if plan.fixed and plan.fixed.rewards else plan.method.value
    fields = {"method": tried, "layers": usual.layers, "rank": usual.rank, "alpha": usual.alpha}
    return fields | {"batch_rows": batch_rows(plan, rows)}


def forecast(
    rows: int, dev_rows: int, speed: dict[str, Any], lengths: dict[str, Any], plan: TaskPlan
) -> dict[str, Any]:
    """Time, memory and cost of the first trial.

    Args:
        rows: Training rows after the split.
        dev_rows: Rows that are looked at after each epoch.
        speed: What the probe told of this machine.
        lengths: Of texts, as the probe was told them.
        plan: For method, limits and budget.

    Returns:
        `seconds` of the trial with its parts, its `epochs`, `peak_bytes`, `cost` where an hour has a price, whether it
        `fits_budget`, and `cheaper` trials if not. The epochs are those that the trainer would give it in the budget,
        and the usual ones where these are too many for it.
    """
    budget = plan.budget.value.seconds
    work = Work(
        rows=rows,
        dev_rows=dev_rows,
        epochs=usual_epochs(plan),
        modality=plan.modality.value,
        lengths=tuple(map(tuple, lengths.get("rows", ()))),
        longest=lengths.get("longest", 0),
        price=settings().price_per_hour,
        cache_room=settings().frozen_cache_gb * 1e9,
    )
    takes = costs.estimate(speed, work)
    fits = takes.seconds <= budget * (CHOSEN_MAY_EXCEED if plan.limits else 1.0)
    if fits and work.epochs:
        own = {"pace": rows / takes.epoch_seconds, "frozen_seconds": takes.frozen_seconds}
        work = work.model_copy(update={"epochs": first_epochs(plan, rows, seconds_left=budget, **own)})
        takes = costs.estimate(speed, work)
    told = takes.model_dump(mode="json") | {"rows": rows, "dev_rows": dev_rows, "epochs": work.epochs}
    # What is held in the frozen layers' cache, the system can take back.
    told |= {"fits_budget": fits, "needed_bytes": speed.get("peak_bytes", 0), "cheaper": []}
    if not fits or told["needed_bytes"] > room_bytes(speed):
        options = costs.cheaper(speed, work, budget, room_bytes(speed))
        told["cheaper"] = [each.model_dump(mode="json") for each in options]
    return {**speed, **told}


def room_bytes(speed: dict[str, Any]) -> int:
    """Memory that a training may take: the GPU's if there is one, else what is free just now."""
    return int(speed.get("device_bytes") or available_bytes())


def pace(forecast: dict[str, Any]) -> float:
    """Rows trained on in a second, with the looks at the dev rows."""
    return float(forecast["rows"] / max(forecast["epoch_seconds"], 1e-3))


def refusal(plan: TaskPlan, forecast: dict[str, Any]) -> ResourceExhausted | None:
    """Why the plan cannot be carried out as it is, with the numbers and what could be."""
    options = [costs.Cheaper.model_validate(each) for each in forecast["cheaper"]]
    needed, free = forecast["needed_bytes"], room_bytes(forecast)
    if needed > free:
        what = f"The training takes about {gigabytes(needed)} of memory, and {gigabytes(free)} are free here."
        remedy = "Free some memory, or use a smaller base." + (f" {costs.told(options)}" if options else "")
        return ResourceExhausted(what, where="memory", remedy=remedy)
    if forecast["fits_budget"]:
        return None
    price = "" if forecast["cost"] is None else f" and costs {forecast['cost']:.2f}"
    budget = plan.budget.value.seconds
    what = (
        f"One trial of {forecast['epochs']:g} epochs takes about {costs.minutes(forecast['seconds'])} here{price}; "
        f"the budget is {costs.minutes(budget)}."
    )
    more = f"Allow {costs.minutes(1.1 * forecast['seconds'])}, or choose by number. {costs.told(options)}"
    return ResourceExhausted(what, where="budget", remedy=more)


def chosen(number: str, forecast: dict[str, Any]) -> dict[str, Any] | None:
    """The edit that a cheaper trial is, by its number as it was shown; None where there is no such number."""
    options = forecast.get("cheaper", [])
    if not number.isdigit() or not 1 <= int(number) <= len(options):
        return None
    return {"limits": {name: value for name, value in options[int(number) - 1]["limits"].items() if value is not None}}
