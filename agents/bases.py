"""Which base a task tunes: candidates by their measures on some training rows, hard bounds first, and the reason.

Loss is counted a byte of the answers, since a token of one base is not a token of another. It is what tuning starts
from and what bases of a kind end in the same order by; the zero-shot score stands beside it, for a person to look at.
"""

from collections.abc import Sequence

from moatelier.contracts import Contract, Sourced, TaskPlan

WORTH = 0.97
"""Another base than the service's own is worth it if its loss is at most this share of its."""
TABLE_NOTE = "Bases: "
"""How the note on other bases than the one that was named begins."""


class Candidate(Contract):
    """A base, and what is known of it. Figures are None where a bound was missed before anything was measured."""

    base: str
    licence: str
    parameters: int | None = None
    context: int | None = None
    zero_shot: float | None = None
    """How often the right answer is likelier than three others, over `rows`; by chance 0.25."""
    loss: float | None = None
    """Nats a byte of the right answers."""
    rows: int = 0
    seconds: float | None = None
    """Of a first trial, by a probe of 20 steps."""
    peak_bytes: int | None = None
    refused: str = ""
    """Why it cannot be chosen."""
    place: int | None = None
    """In the ranking, from 1; None for those that cannot be chosen."""


def unfit(
    entry_licence: str, *, licences: Sequence[str], served: bool, pulled: bool, context: int | None, longest: int
) -> str:
    """Why a base cannot be chosen, whatever it can do; empty where nothing speaks against it.

    Args:
        entry_licence: The base's.
        licences: Those that are allowed; none allows all.
        served: The engine serves it.
        pulled: It is on this machine.
        context: Tokens that it reads; None is not known.
        longest: Tokens of the longest row that may not be cut or left out; 0 if all may.
    """
    if licences and entry_licence.casefold() not in {each.casefold() for each in licences}:
        return f"its licence {entry_licence} is not allowed here"
    if not served:
        return "it is not served; name it in MOATELIER_MORE_BASES"
    if not pulled:
        return "it is not pulled"
    if context is not None and context < longest:
        return f"it reads {context} tokens, and a row has {longest}"
    return ""


def rank(candidates: Sequence[Candidate], *, budget_s: float, room_bytes: int) -> tuple[Candidate, ...]:
    """All candidates, best first, with their places; those that cannot be chosen last, with the reason.

    Args:
        candidates: Measured, or refused.
        budget_s: What a trial may take.
        room_bytes: What a training may hold.
    """
    judged = [_bounded(each, budget_s, room_bytes) for each in candidates]
    fit = sorted((each for each in judged if not each.refused), key=_order)
    placed = [each.model_copy(update={"place": place}) for place, each in enumerate(fit, 1)]
    return (*placed, *(each for each in judged if each.refused))


def _bounded(each: Candidate, budget_s: float, room_bytes: int) -> Candidate:
    why = each.refused
    if not why and (each.peak_bytes or 0) > room_bytes:
        why = f"it takes {(each.peak_bytes or 0) / 1e9:.1f} GB of memory, and {room_bytes / 1e9:.1f} GB are free"
    if not why and (each.seconds or 0.0) > budget_s:
        why = f"a trial takes {each.seconds:.0f} s, and the budget is {budget_s:.0f} s"
    return each.model_copy(update={"refused": why, "place": None})


def _order(each: Candidate) -> tuple[float, float, float, str]:
    loss = float("inf") if each.loss is None else each.loss
    return loss, -(each.zero_shot or 0.0), each.seconds or 0.0, each.base


def choose(plan: TaskPlan, ranked: Sequence[Candidate], own: str) -> TaskPlan:
    """The plan with the base that the ranking speaks for, and why; one that a person named is only commented.

    Args:
        plan: As the planner made it.
        ranked: From `rank`.
        own: The base that the service tunes when nothing speaks for another.
    """
    named = plan.base.value if plan.base.source == "user" else own
    best, why = _best(ranked, named)
    if plan.base.source != "user":
        return plan.model_copy(update={"base": Sourced(value=best, source="inferred", confidence=0.8, reason=why)})
    kept = tuple(note for note in plan.notes if not note.startswith(TABLE_NOTE))
    note = f"{TABLE_NOTE}you named {named}. {why}" if best != named else ""
    return plan.model_copy(update={"notes": (*kept, note) if note else kept})


def _best(ranked: Sequence[Candidate], own: str) -> tuple[str, str]:
    """The base to take, and why."""
    fit = [each for each in ranked if not each.refused]
    mine = next((each for each in ranked if each.base == own), None)
    if not fit:
        return own, f"No base fits: {_refusals(ranked)}."
    first = fit[0]
    if mine is None or mine.refused:
        why = mine.refused if mine else "it is not known"
        return first.base, f"{own} cannot be taken: {why}. Of the others {_told(first)}."
    if first.base == own:
        return own, f"Of {len(fit)} bases that fit, {_told(first)}, the lowest loss."
    if first.loss is not None and mine.loss is not None and first.loss <= WORTH * mine.loss:
        return first.base, f"{_told(first)}; {_told(mine)}. A lower loss to start from is worth the difference."
    return own, f"{_told(mine)}; {_told(first)}, which is too little better to leave the service's own base for."


def _told(each: Candidate) -> str:
    score = "" if each.zero_shot is None else f" prefers the right answer on {each.zero_shot:.0%} of {each.rows} rows"
    loss = "" if each.loss is None else f" with a loss of {each.loss:.3f} a byte"
    time = "" if each.seconds is None else f" and takes {each.seconds:.0f} s a trial"
    return f"{each.base}{score}{loss}{time}"


def _refusals(ranked: Sequence[Candidate]) -> str:
    return "; ".join(f"{each.base}: {each.refused}" for each in ranked)
