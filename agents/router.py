"""The router's decision at the end of a task: which aliases point at the candidate from now on."""

from moatelier.contracts import Contract, GateDecision, TaskPlan


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
