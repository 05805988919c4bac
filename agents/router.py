"""The router's decisions at a task's end: which aliases move to the candidate, and whether `auto` may choose it."""

from moatelier.contracts import Contract, GateDecision, RouterEvidence, TaskPlan

LEAST_ROWS = 20
"""Train rows below which a profile says more of chance than of the domain."""
LEAST_HELD_OUT = 3
"""Dev rows below which nothing can be said of how well its texts are recognised."""
LEAST_TOLD_APART = 0.75
"""Of two adapters that share their domain `auto` would choose by chance; 0.5 is chance."""


class Registration(Contract):
    """What to register. With no aliases the bundle is kept and can be used by its id."""

    aliases: tuple[str, ...]
    fence: int
    """The alias swap carries it; a swap with a lower or equal fence of another task is refused."""
    reason: str


def decide(decision: GateDecision, plan: TaskPlan, current_alias: tuple[str, int] | None) -> Registration:
    """Decide on registration.

    Args:
        decision: The gate's signed decision.
        plan: The task's plan; its name is the alias.
        current_alias: Digest and fence that the alias has now, None when nobody has it.
    """
    digest, fence = current_alias or (None, 0)
    if not decision.promoted:
        return Registration(
            aliases=(), fence=fence, reason=f"{decision.reason} The adapter is kept and registered without an alias."
        )
    if digest == decision.candidate:
        return Registration(aliases=(plan.name,), fence=fence, reason=f"{plan.name} already points at the candidate.")
    if digest != decision.champion:
        # Another task moved the alias after the gate compared; that comparison no longer holds.
        return Registration(
            aliases=(),
            fence=fence,
            reason=f"{plan.name} was moved to {(digest or 'nothing')[:8]} while the gate compared with "
            f"{(decision.champion or 'nothing')[:8]}; "
            "the adapter is registered without an alias. Run the task again to compare it with the new champion.",
        )
    before = f"instead of {digest[:8]}" if digest else "for the first time"
    return Registration(
        aliases=(plan.name,),
        fence=fence + 1,
        reason=f"{decision.reason} {plan.name} points at {decision.candidate[:8]} {before}.",
    )


class Membership(Contract):
    """Whether `auto` may choose an adapter, and whose place it takes there."""

    joined: bool
    replaces: str | None
    reason: str


def join(evidence: RouterEvidence) -> Membership:
    """Decide on an adapter's place in `auto`."""
    built, stays_out = evidence.built, _why_not(evidence)
    if stays_out:
        return Membership(
            joined=False, replaces=None, reason=f"{stays_out} auto does not choose it; it is asked by name."
        )
    place = f" in the place of {evidence.replaces[:8]}" if evidence.replaces else ""
    nearest = f"; its rows are told from those of {built.twin[:8]} in {built.told_apart:.0%}" if built.twin else ""
    reason = f"auto may choose {built.adapter[:8]}{place}: {built.rows} rows say where its domain lies{nearest}."
    return Membership(joined=True, replaces=evidence.replaces, reason=reason)


def _why_not(evidence: RouterEvidence) -> str:
    built = evidence.built
    if evidence.kind == "retrieval":
        return "It finds pictures by words and gives vectors, where `auto` is asked for answers."
    if evidence.edits:
        return "It makes one answer of others', and questions to `auto` bring none."
    if not evidence.promoted:
        return "The gate did not promote it."
    if evidence.successor:
        return f"{evidence.successor[:8]} has taken its place."
    if built.rows < LEAST_ROWS:
        return f"{built.rows} training rows are too few to know its domain by ({LEAST_ROWS} are needed)."
    if built.held_out_rows < LEAST_HELD_OUT:
        return f"{built.held_out_rows} dev rows are too few to tell how well its texts are recognised."
    if built.twin and built.told_apart < LEAST_TOLD_APART:
        return (
            f"Its rows cannot be told from those of {built.twin[:8]}: right in {built.told_apart:.0%} "
            f"of rows, {LEAST_TOLD_APART:.0%} are needed."
        )
    return ""
