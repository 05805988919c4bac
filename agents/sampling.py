"""Which settings a search tries next: a pure function of the space, the seed and what came of the earlier trials.

Nothing is kept between two calls. A study of optuna is made anew from the finished trials each time, with a seed of
its own for each draw, so that a decision made again after a crash is the same.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from moatelier.contracts import Search
from moatelier.contracts.search import Value
from moatelier.ids import digest_json

Values = dict[str, Value]
ASKS = 20
"""So often TPE is asked for settings that were not tried yet."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Tried:
    """Settings that were tried, and the loss on dev rows at the first rung; None when the training failed."""

    values: Values
    loss: float | None


def draw(search: Search, usual: Mapping[str, Value], tried: Sequence[Tried], trials: int, seed: int) -> Values | None:
    """The next trial's settings, never tried ones; None when all there are have been tried.

    Args:
        search: Its way and space.
        usual: What the trainer would take by itself: the first trial of a random or TPE search takes the nearest.
        tried: All earlier trials in order.
        trials: How many there will be at most.
        seed: The plan's.
    """
    left = [values for values in _order(search, usual, trials, seed) if not _among(values, tried)]
    if not left:
        return None
    if search.by != "tpe" or len(tried) < startup(trials):
        return left[0]
    for attempt in range(ASKS):
        values = _asked(search, tried, int(digest_json([seed, len(tried), attempt])[:8], 16))
        if not _among(values, tried):
            return values
    return left[0]


def startup(trials: int) -> int:
    """So many trials are drawn at random before TPE has something to learn from."""
    return max(4, trials // 3)


def _among(values: Values, tried: Sequence[Tried]) -> bool:
    return any(each.values == values for each in tried)


def _order(search: Search, usual: Mapping[str, Value], trials: int, seed: int) -> list[Values]:
    """Enough settings for a whole search without TPE: the whole grid if it fits, else as many drawn from it."""
    count = search.combinations
    if search.by == "grid" and count <= trials:
        return [_at(search, number) for number in range(count)]
    drawn = [_at(search, number) for number in random.Random(seed).sample(range(count), min(count, trials + 1))]
    if search.by == "grid":
        return drawn[:trials]
    first = {name: _nearest(values, usual.get(name)) for name, values in search.space.items()}
    return [first, *(values for values in drawn if values != first)]


def _at(search: Search, number: int) -> Values:
    """The combination of this number, the last setting changing fastest."""
    values: Values = {}
    for name, choices in reversed(search.space.items()):
        number, place = divmod(number, len(choices))
        values[name] = choices[place]
    return {name: values[name] for name in search.space}


def _nearest(values: Sequence[Value], wanted: Value | None) -> Value:
    numbers = [value for value in values if not isinstance(value, str)]
    if isinstance(wanted, (int, float)) and numbers:
        return min(numbers, key=lambda value: (abs(value - wanted), value))
    return wanted if wanted is not None and wanted in values else values[0]


def _asked(search: Search, tried: Sequence[Tried], seed: int) -> Values:
    """What TPE would try after these. A failed training counts as worse than the worst."""
    space = {name: _distribution(values) for name, values in search.space.items()}
    losses = [each.loss for each in tried if each.loss is not None]
    worst = max(losses, default=0.0) + 1.0
    study = optuna.create_study(sampler=TPESampler(seed=seed, n_startup_trials=1))
    for each in tried:
        params = {name: _placed(search, name, value) for name, value in each.values.items()}
        loss = worst if each.loss is None else each.loss
        study.add_trial(create_trial(params=params, distributions=space, value=loss))
    told = study.ask(space).params
    return {
        name: told[name] if isinstance(space[name], CategoricalDistribution) else values[told[name]]
        for name, values in search.space.items()
    }


def _distribution(values: Sequence[Value]) -> BaseDistribution:
    """Words are categories; numbers are places in their list, so that neighbours are alike to TPE."""
    if isinstance(values[0], str):
        return CategoricalDistribution(tuple(values))
    return IntDistribution(0, len(values) - 1)


def _placed(search: Search, name: str, value: Value) -> Value:
    return value if isinstance(value, str) else search.space[name].index(value)
