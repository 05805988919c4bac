"""A recipe let through without a trial: the signed decision that the store asks for, and no more in it."""

from moatelier.contracts.base import Contract
from store import recipes, records


class Decision(Contract):
    """As much of a decision as the store looks at."""

    live: bool
    reason: str = "It is worth its calls."


def let_through(name: str, digest: str, project: str = "default") -> recipes.StoredRecipe:
    """Sign that this content may answer, and carry it out."""
    key = f"trial-{digest[:12]}"
    records.sign(project, "mixture_decision", digest, key, Decision(live=True))
    return recipes.settle(project, name, record=key, actor="test")
