"""From a recipe's text to what it names: sealed when it is added, resolved when it is asked.

Everything that can be wrong with the names is wrong here, with an error that says which: an adapter that does not
exist or was tuned on another base, an upstream that is not configured, a recipe that asks itself, directly or through
others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moatelier.contracts import Ensemble, Proposer, Recipe, Synthesis, Voice
from moatelier.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from moatelier.settings import settings
from serving.targets import Target, resolve
from store import adapters, recipes
from store.recipes import StoredRecipe


@dataclass(frozen=True)
class Mixture:
    """A recipe with everything that it names at hand.

    Attributes:
        stored: The recipe as it is kept.
        targets: Digest, or the base's id -> what the engine serves.
        others: `<name>@<digest>` -> the recipe of a proposer that is one.
    """

    stored: StoredRecipe
    targets: Mapping[str, Target]
    others: Mapping[str, "Mixture"] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The sealed recipe."""
        return self.stored.sealed

    @property
    def base(self) -> Target:
        """The base without an adapter."""
        return self.targets[settings().base]

    def need_live(self) -> None:
        """Refuse to answer ordinary requests unless a trial has said that it may.

        Raises:
            Conflict: It is a draft, or was disabled; the reason is told.
        """
        if self.stored.state == "live":
            return
        state = "is a draft" if self.stored.state == "draft" else "is disabled"
        raise Conflict(
            f"The recipe {state} and does not answer requests: {self.stored.reason}",
            where=f"moa/{self.stored.name}",
            remedy=f"`moatelier moa evaluate {self.stored.name}` decides whether it may.",
        )


def seal(project: str, recipe: Recipe) -> Recipe:
    """The recipe with digests for names, checked.

    Raises:
        NotFound: An adapter, an upstream or a recipe that does not exist.
        InvalidRequest: An adapter of another base or one that answers nothing, or a recipe that asks itself.
    """
    _check_loops(project, recipe)
    for voice in recipe.voices:
        _check_upstream(voice)
    return _sealed_all(project, recipe)


def _sealed_all(project: str, recipe: Recipe) -> Recipe:
    layers = [
        layer.model_copy(update={"proposers": tuple(_sealed(project, proposer) for proposer in layer.proposers)})
        for layer in recipe.layers
    ]
    aggregator = recipe.aggregator
    if isinstance(aggregator, Ensemble):
        for member in filter(None, (proposer.adapter for proposer in layers[-1].proposers)):
            _adapter(project, member, (settings().base,))
    if isinstance(aggregator, Synthesis) and aggregator.adapter:
        aggregator = aggregator.model_copy(
            update={"adapter": _adapter(project, aggregator.adapter, (settings().base,))}
        )
    return recipe.model_copy(update={"layers": tuple(layers), "aggregator": aggregator})


def _sealed(project: str, proposer: Proposer) -> Proposer:
    if proposer.adapter:
        return proposer.model_copy(update={"adapter": _adapter(project, proposer.adapter)})
    if proposer.other:
        name, _ = proposer.other
        return proposer.model_copy(update={"recipe": f"{name}@{recipes.get(project, name).digest}"})
    return proposer


def _adapter(project: str, name: str, bases: Sequence[str] = ()) -> str:
    """The digest of an adapter on one of these bases; default: on any that is served."""
    fit, record = bases or settings().bases, adapters.get(project, name)
    if record.base not in fit:
        raise InvalidRequest(
            f"The adapter was tuned on {record.base}; here it must be on {' or '.join(fit)}.",
            where=name,
            remedy="Name an adapter of a base that fits.",
        )
    if record.manifest.kind == "retrieval":
        raise InvalidRequest(
            "The adapter finds pictures by words and answers nothing.", where=name, remedy="Name one that answers."
        )
    return record.digest


def _check_upstream(voice: Voice) -> None:
    if voice.upstream and voice.upstream not in settings().upstreams:
        known = ", ".join(sorted(settings().upstreams)) or "none"
        raise NotFound(
            "No upstream of this name is configured.",
            where=voice.upstream,
            remedy=f"MOATELIER_UPSTREAMS names: {known}.",
        )


def _check_loops(project: str, recipe: Recipe) -> None:
    """Walk through all recipes that are asked, also those that were changed since they were named."""
    waiting, seen = [(recipe.name, recipe)], set[str]()
    while waiting:
        path, current = waiting.pop()
        for name, _ in current.others:
            if name == recipe.name:
                raise InvalidRequest(
                    "The recipe asks itself.",
                    where=" -> ".join(f"moa/{part}" for part in [*path.split(), name]),
                    remedy="Take one of these steps out.",
                )
            if name not in seen:
                seen.add(name)
                waiting.append((f"{path} {name}", recipes.get(project, name).sealed))


def load(wanted: tuple[str, str]) -> Mixture:
    """The mixture of (project, recipe name), blocking.

    Raises:
        NotFound: There is no such recipe, or something that it names is gone.
        Conflict: A recipe that it asks was changed since.
        InvalidRequest: It asks itself, or an adapter of another base.
        IntegrityError: It is not what its digest says.
    """
    project, name = wanted
    stored = recipes.get(project, name)
    if stored.sealed.digest != stored.digest:
        what = "The recipe is not what its digest says."
        raise IntegrityError(what, where=f"moa/{stored.name}", remedy="Add it again, or restore the store.")
    _check_loops(project, stored.sealed)
    targets = {settings().base: resolve((project, settings().base))}
    for voice in stored.sealed.voices:
        _check_upstream(voice)
        if voice.adapter:
            targets[voice.adapter] = resolve((project, _adapter(project, voice.adapter)))
    others = {f"{other}@{digest}": _other(project, other, digest) for other, digest in stored.sealed.others}
    return Mixture(stored, targets, others)


def _other(project: str, name: str, digest: str) -> Mixture:
    found = load((project, name))
    if found.stored.digest != digest:
        raise Conflict(
            "A recipe that this one asks was changed since.",
            where=f"moa/{name}",
            remedy="Add this recipe again, and evaluate it.",
        )
    return found
