"""Feedback is heeded: a live recipe that people turn out to like less than a single model stops answering.

What was shown on held-out rows may not hold for what people ask. Whenever somebody judges an answer of `moa/<name>`,
all judgements since the recipe went live are weighed anew: its own against those on the answers of its proposers'
models alone, whether they were routed to or asked by name. The test may be looked at after every word.
"""

import logging
from datetime import datetime
from typing import Any

from evals import sequential
from evals.statistics import ALPHA
from graphs.recipes import proposers
from moatelier.contracts import Event, Recipe
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import Conflict, MoatelierError, NotFound
from moatelier.settings import settings
from serving.router import BASE
from store import events, feedback, recipes, records

STREAM = "inference"
"""The stream of events that belong to no conversation."""
log = logging.getLogger("moatelier.api")


def heed(project: str, requested: str) -> sequential.Comparison | None:
    """Weigh the feedback on a recipe's answers, and stop it if they are liked less. None if there is nothing to weigh.

    Args:
        project: Whose recipe it is.
        requested: The name in the request that the feedback is about.
    """
    if not requested.startswith(PREFIX):
        return None
    try:
        recipe = recipes.get(project, requested)
        if recipe.state != "live" or recipe.record is None:
            return None
        since = records.get(project, "mixture_decision", recipe.record).created_at
    except NotFound:  # removed, or never evaluated
        return None
    found = sequential.compare(_words(project, requested, since, _alone(project, recipe.sealed)))
    if found.worse:
        _stop(project, recipe, found)
    return found


def _words(project: str, requested: str, since: datetime, alone: set[str]) -> list[tuple[bool, float]]:
    """Judgements on the recipe's answers and on those of its models alone, in the order in which they came."""

    def counts(word: feedback.Word) -> bool:
        single = not word.requested.startswith(PREFIX) and (not alone or word.chosen in alone)
        return word.requested == requested or single

    return [(word.requested == requested, word.good) for word in feedback.words(project, since) if counts(word)]


def _alone(project: str, recipe: Recipe) -> set[str]:
    """What the feedback on a single answer of the recipe's models is kept under; empty when only upstreams propose."""
    proposing = [proposer for layer in recipe.layers for proposer in layer.proposers]
    bases = {BASE, settings().base} if any(proposer.base for proposer in proposing) else set()
    return bases | set(proposers(project, recipe))


def _stop(project: str, recipe: recipes.StoredRecipe, found: sequential.Comparison) -> None:
    reason = (
        f"Feedback says that its answers are liked less than those of its models alone: by "
        f"{-100 * found.gain:.0f} points, and at least {-100 * found.upper:.1f} with "
        f"{1 - ALPHA:.0%} confidence ({found.ours} judgements on its answers, {found.theirs} on theirs)."
    )
    try:
        recipes.disable(project, recipe.name, reason, actor="feedback", digest=recipe.digest)
    except Conflict:  # other content meanwhile, which this feedback says nothing about
        return
    body: dict[str, Any] = {"recipe": recipe.name, "digest": recipe.digest, "state": "disabled", "reason": reason}
    body |= {"gain": found.gain, "upper": found.upper, "ours": found.ours, "theirs": found.theirs}
    # One event for each time that it had gone live.
    events.append(
        [Event(project=project, stream=STREAM, job=f"{PREFIX}{recipe.name}/{recipe.record}", kind="recipe", body=body)]
    )
    log.warning("moa/%s is disabled: %s", recipe.name, reason)


def heed_quietly(project: str, requested: str) -> None:
    """`heed` for whoever has just kept feedback: that it cannot be weighed now is no failure of theirs."""
    try:
        heed(project, requested)
    except MoatelierError:
        log.exception("the feedback on %s could not be weighed", requested)
