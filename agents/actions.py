"""What may be done about a diagnosis: bounded, registered changes of a trial's spec, in the order of a ladder.

data -> recipe -> search -> method -> base: what is wrong with the rows is put right before a number is turned, numbers
are turned one at a time before several are drawn at once, and another method or another base comes last. Fields of the
plan that a person chose are never changed.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agents.starts import SOLVED, start
from agents.trial import Evidence, Trial
from moatelier.contracts import Level, Symptom, TaskPlan, TrainSpec
from moatelier.ids import digest_json

LEVELS: tuple[Level, ...] = ("data", "recipe", "search", "method", "base")
MAX_EPOCHS = 12
MOST_LEFT_OUT = 0.3
"""At most this share of the training rows is left out for their labels or their form."""
DRAWS = 6
"""So many settings are drawn at most, until a search that was asked for would do better."""
OTHERS: Mapping[str, tuple[str, ...]] = {
    "lora": ("dora", "rslora", "pissa"),
    "dora": ("lora", "rslora"),
    "rslora": ("dora", "lora"),
    "pissa": ("lora", "dora"),
    "full": ("hft", "lora"),
    "hft": ("lora",),
    "dpo": ("orpo",),
    "orpo": ("dpo",),
    "top_blocks": ("image_lora",),
    "image_lora": ("top_blocks",),
}
"""Method -> others of the same rows that take about as much time and memory, or less."""
GENTLER: Mapping[str, tuple[str, ...]] = {"full": ("hft", "lora"), "hft": ("lora",)}
"""Method -> others that change less of the base."""


@dataclass(frozen=True)
class About:
    """What an action is about: the best trial so far, the plan, and what is known of the last trial."""

    trial: Trial
    plan: TaskPlan
    evidence: Evidence


Changes = Callable[[About], Iterator[TrainSpec]]


@dataclass(frozen=True)
class Action:
    """One registered change: its name, its rung of the ladder, and the specs that it would make of the best trial's."""

    name: str
    level: Level
    changes: Changes


def _one(change: Callable[[Trial], TrainSpec]) -> Changes:
    def changes(about: About) -> Iterator[TrainSpec]:
        yield change(about.trial)

    return changes


def _with(trial: Trial, **changes: object) -> TrainSpec:
    return trial.spec.model_copy(update=changes)


def whole(wanted: float) -> float:
    """Whole epochs from two on, tenths below: dev loss is measured at the end of each."""
    return float(int(wanted)) if wanted >= 2 else max(int(10 * wanted + 1e-9) / 10, 0.1)


def _epochs_to_the_minimum(trial: Trial) -> TrainSpec:
    """Stop where dev loss was lowest."""
    curve = trial.result.dev_curve
    if not curve or not trial.result.steps:
        return _with(trial, epochs=max(1.0, trial.spec.epochs / 2))
    step = min(curve, key=lambda point: point[1])[0]
    return _with(trial, epochs=whole(max(1.0, trial.spec.epochs * step / trial.result.steps)))


def _less_rank(trial: Trial) -> TrainSpec:
    rank = max(trial.spec.rank // 2, 1)
    return _with(trial, rank=rank, alpha=trial.spec.alpha * rank / trial.spec.rank)


# ---------------------------------------------------------------- data


def _without(about: About, numbers: tuple[int, ...]) -> Iterator[TrainSpec]:
    card = about.evidence.card
    most = int(MOST_LEFT_OUT * card.splits["train"].rows) if card and "train" in card.splits else 0
    gone = {*about.trial.spec.leave_out, *numbers[:most]}
    if numbers and len(gone) <= most:
        yield _with(about.trial, leave_out=tuple(sorted(gone)))


def _without_doubted(about: About) -> Iterator[TrainSpec]:
    """Leave out the rows whose labels a cross-validated model doubts, the worst first, and then twice as many."""
    doubted = about.evidence.card.report.suspicious if about.evidence.card else ()
    rows = tuple(each.row for each in sorted(doubted, key=lambda each: -each.loss))
    for part in ((len(rows) + 1) // 2, len(rows)):
        yield from _without(about, rows[:part])


def _without_malformed(about: About) -> Iterator[TrainSpec]:
    yield from _without(about, about.evidence.malformed)


# ---------------------------------------------------------------- search, method, base


def _drawn(about: About) -> Iterator[TrainSpec]:
    """Several settings at once, drawn about the best trial's by the plan's seed, always the same ones in order."""
    spec = about.trial.spec
    usual = start(spec.method)
    chance = random.Random(int(digest_json([about.plan.seed, spec.method, spec.dataset])[:8], 16))
    for _ in range(DRAWS):
        rate = usual.learning_rate * chance.choice((0.25, 0.5, 1.0, 2.0, 4.0))
        changes: dict[str, object] = {
            "learning_rate": min(max(rate, 5e-5), 4e-3) if not usual.whole else rate,
            "epochs": whole(min(chance.choice((0.5, 1.0, 1.5, 2.0)) * spec.epochs, 2.0 * MAX_EPOCHS)),
        }
        rows, scale = (chance.choice((0.5, 1.0, 2.0)) for _ in range(2))
        if "smaller_batch" not in usual.unfit:
            changes["batch_rows"] = max(4, round(rows * usual.batch_rows))
        if usual.rank > 1 and "more_rank" not in usual.unfit:
            changes |= {"rank": max(1, round(scale * usual.rank)), "alpha": scale * usual.alpha}
        yield spec.model_copy(update=changes)


def _of_methods(table: Mapping[str, tuple[str, ...]]) -> Changes:
    def changes(about: About) -> Iterator[TrainSpec]:
        if about.plan.method.source == "user":
            return
        for method in table.get(about.trial.spec.method, ()):
            own = start(method)
            own_start: dict[str, object] = {
                "method": method,
                "rank": own.rank,
                "alpha": own.alpha,
                "layers": own.layers,
                "learning_rate": own.learning_rate,
            }
            yield _with(about.trial, **own_start)

    return changes


def _nothing(about: About) -> Iterator[TrainSpec]:
    """The plan that a person approved names one base: another one is proposed, not taken."""
    yield from ()


WITHOUT_DOUBTED = Action("without_doubted_rows", "data", _without_doubted)
WITHOUT_MALFORMED = Action("without_malformed_rows", "data", _without_malformed)
MORE_EPOCHS = Action("more_epochs", "recipe", _one(lambda t: _with(t, epochs=min(2 * t.spec.epochs, 2.0 * MAX_EPOCHS))))
HALF_MORE_EPOCHS = Action("half_more_epochs", "recipe", _one(lambda t: _with(t, epochs=whole(1.5 * t.spec.epochs))))
FEWER_EPOCHS = Action("fewer_epochs", "recipe", _one(lambda t: _with(t, epochs=whole(t.spec.epochs / 2))))
EPOCHS_TO_THE_MINIMUM = Action("epochs_to_the_minimum", "recipe", _one(_epochs_to_the_minimum))
HIGHER_RATE = Action(
    "higher_rate", "recipe", _one(lambda t: _with(t, learning_rate=min(2 * t.spec.learning_rate, 4e-3)))
)
LOWER_RATE = Action("lower_rate", "recipe", _one(lambda t: _with(t, learning_rate=max(t.spec.learning_rate / 2, 5e-5))))
MUCH_LOWER_RATE = Action(
    "much_lower_rate", "recipe", _one(lambda t: _with(t, learning_rate=max(t.spec.learning_rate / 8, 2e-5)))
)
MORE_WARMUP = Action("more_warmup", "recipe", _one(lambda t: _with(t, warmup_ratio=max(0.2, t.spec.warmup_ratio))))
MORE_RANK = Action(
    "more_rank",
    "recipe",
    _one(lambda t: _with(t, rank=min(2 * t.spec.rank, 64), alpha=min(2 * t.spec.alpha, 128.0))),
)
LESS_RANK = Action(
    "less_rank",
    "recipe",
    _one(
        lambda t: _with(t, rank=max(t.spec.rank // 2, 1), alpha=t.spec.alpha * max(t.spec.rank // 2, 1) / t.spec.rank)
    ),
)
ALL_LAYERS = Action(
    "all_layers", "recipe", _one(lambda t: _with(t, layers="all", learning_rate=t.spec.learning_rate / 2))
)
TOP_LAYERS = Action("top_layers", "recipe", _one(lambda t: _with(t, layers="top_third")))
DROPOUT = Action("dropout", "recipe", _one(lambda t: _with(t, dropout=0.1, weight_decay=0.01)))
SMALLER_BATCH = Action("smaller_batch", "recipe", _one(lambda t: _with(t, batch_rows=max(t.spec.batch_rows // 2, 4))))
DECAY = Action("decay", "recipe", _one(lambda t: _with(t, weight_decay=max(4 * t.spec.weight_decay, 0.05))))
AUGMENT = Action("augment", "recipe", _one(lambda t: _with(t, augment=True, epochs=whole(1.5 * t.spec.epochs))))
MORE_PIXELS = Action("more_pixels", "recipe", _one(lambda t: _with(t, size=None)))
OTHER_SEED = Action("other_seed", "recipe", _one(lambda t: _with(t, seed=t.spec.seed + 1)))
HELD_MORE = Action(
    "held_more", "recipe", _one(lambda t: _with(t, beta=min(4 * (t.spec.beta or HELD.get(t.spec.method, 0.1)), 10.0)))
)
HELD: Mapping[str, float] = {"dpo": 0.1, "orpo": 0.1, "kto": 0.1}
"""How strongly each preference method holds on to the reference by itself."""
DRAWN = Action("drawn_settings", "search", _drawn)
OTHER_METHOD = Action("other_method", "method", _of_methods(OTHERS))
GENTLER_METHOD = Action("gentler_method", "method", _of_methods(GENTLER))
OTHER_BASE = Action("other_base", "base", _nothing)

_LAST = (DRAWN, OTHER_METHOD, OTHER_BASE)
ACTIONS: Mapping[Symptom, tuple[Action, ...]] = {
    "data_fault": (WITHOUT_DOUBTED,),
    "divergence": (LOWER_RATE, MUCH_LOWER_RATE, MORE_WARMUP, *_LAST),
    "underfit": (MORE_EPOCHS, HIGHER_RATE, HALF_MORE_EPOCHS, SMALLER_BATCH, ALL_LAYERS, *_LAST),
    "overfit": (EPOCHS_TO_THE_MINIMUM, AUGMENT, DROPOUT, LOWER_RATE, DECAY, LESS_RANK, *_LAST),
    "class_confusion": (WITHOUT_DOUBTED, ALL_LAYERS, HALF_MORE_EPOCHS, AUGMENT, MORE_PIXELS, MORE_RANK, *_LAST),
    "format_errors": (WITHOUT_MALFORMED, MORE_EPOCHS, HALF_MORE_EPOCHS, HIGHER_RATE, *_LAST),
    "never_stops": (MORE_EPOCHS, HALF_MORE_EPOCHS, HIGHER_RATE, *_LAST),
    "forgetting": (FEWER_EPOCHS, LOWER_RATE, TOP_LAYERS, LESS_RANK, GENTLER_METHOD),
    "preference_gap": (HELD_MORE, FEWER_EPOCHS, LOWER_RATE, DROPOUT, *_LAST),
    "plateau": (ALL_LAYERS, AUGMENT, MORE_RANK, MORE_PIXELS, LOWER_RATE, SMALLER_BATCH, OTHER_SEED, *_LAST),
    "healthy": (HALF_MORE_EPOCHS, ALL_LAYERS, AUGMENT, MORE_PIXELS, LOWER_RATE, MORE_RANK, OTHER_SEED, *_LAST),
}
"""Diagnosis -> what may be done about it, most promising first on each rung; not all of it has a meaning for every
method, see `agents.starts`."""
ACTION_NAMES = frozenset(action.name for actions in ACTIONS.values() for action in actions)


def unfit(method: str) -> frozenset[str]:
    """Names of the actions that have no meaning for a method."""
    if method in SOLVED:
        return ACTION_NAMES
    usual = start(method)
    few = {"less_rank"} if usual.rank == 1 else set[str]()
    held = set[str]() if method in HELD else {"held_more"}
    return usual.unfit | few | held
