"""A planted shift is seen within 500 requests; 10,000 requests without one raise at most one alert."""

from typing import Any

import numpy as np
import pytest

from evals import drift, observing
from evals.drift import PERSISTENCE, REFERENCE, STEP, WINDOW

Random = np.random.Generator
WORDS = "where is my parcel order refund invoice late broken screen please help now card payment address change".split()
OTHER = "quantum tensor gradient kernel matrix sigma vector integral theorem lemma proof algebra".split()


def request(
    random: Random, words: list[str] = WORDS, length: float = 8, errors: float = 0.01, slow: float = 1.0
) -> Any:
    text = " ".join(random.choice(words, size=2 + random.poisson(length)))
    heard = observing.Heard(
        text,
        " ".join(random.choice(WORDS, size=1 + random.poisson(4))),
        error="upstream_error" if random.random() < errors else "",
        milliseconds=float(slow * random.lognormal(5, 0.4)),
        prompt_tokens=len(text) // 4,
        completion_tokens=int(1 + random.poisson(5)),
        logprobs=tuple(-random.exponential(0.3, size=4)),
    )
    return observing.numbers(heard, 1.0)


def first_alerts(requests: list[Any]) -> list[tuple[int, str]]:
    """(request, monitor) of what has been shifted for as many looks as an alert needs, for the first time in a row."""
    reference, rest = requests[:REFERENCE], requests[REFERENCE:]
    streaks: dict[str, int] = {}
    raised = []
    for end in range(WINDOW, len(rest) + 1, STEP):
        streaks = drift.streaks(streaks, drift.look(reference, rest[end - WINDOW : end]))
        raised += [(end, name) for name, streak in streaks.items() if streak == PERSISTENCE]
    return raised


@pytest.mark.parametrize(
    ("shift", "monitors"),
    [
        ({"length": 20}, {"drift_prompt_length"}),
        ({"words": OTHER}, {"drift_prompts"}),
        ({"errors": 0.25}, {"errors"}),
        ({"slow": 2.5}, {"latency"}),
    ],
)
def test_a_planted_shift_is_seen_within_500_requests(shift: dict[str, Any], monitors: set[str]) -> None:
    for seed in range(3):
        random = np.random.default_rng(seed)
        usual = [request(random) for _ in range(REFERENCE + 1000)]
        shifted = [request(random, **shift) for _ in range(500)]
        raised = first_alerts(usual + shifted)
        assert all(at > 1000 for at, _ in raised), "nothing before"
        assert monitors <= {name for _, name in raised}, raised


def test_ten_thousand_requests_without_a_shift_raise_at_most_one() -> None:
    random = np.random.default_rng(17)
    assert len(first_alerts([request(random) for _ in range(REFERENCE + 10_000)])) <= 1


def test_each_comparison_keeps_its_level() -> None:
    """P-values of no shift are even: at 5 % some 5 % of them are below."""
    random = np.random.default_rng(5)
    kinds = {
        "numbers": lambda: drift.numbers(random.normal(size=500), random.normal(size=200)).p,
        "rates": lambda: drift.rates(random.random(500) < 0.3, random.random(200) < 0.3).p,
        "categories": lambda: drift.categories(random.choice(list("abc"), 500), random.choice(list("abc"), 200)).p,
        "mmd": lambda: drift.mmd(random.normal(size=(60, 4)), random.normal(size=(60, 4)), int(random.integers(1e6))),
    }
    for name, test in kinds.items():
        below = np.mean([test() <= 0.05 for _ in range(200)])
        assert below <= 0.09, (name, below)


def test_a_direction_that_is_welcome_raises_nothing() -> None:
    random = np.random.default_rng(3)
    slow, fast = random.lognormal(6, 0.3, 500), random.lognormal(4, 0.3, 200)
    assert not drift.numbers(slow, fast, "up").shifted and drift.numbers(fast, slow, "up").shifted
    many, few = random.random(500) < 0.3, random.random(200) < 0.01
    assert not drift.rates(many, few, "up").shifted and drift.rates(many, few, "down").shifted


def test_what_is_constant_or_new_is_no_fault() -> None:
    assert not drift.numbers(np.ones(500), np.ones(200)).shifted
    assert not drift.rates(np.zeros(500), np.zeros(200)).shifted
    assert not drift.categories(["en"] * 500, ["en"] * 200).shifted
    assert drift.categories(["en"] * 500, ["de"] * 200).shifted
    assert drift.mmd(np.zeros((20, 3), np.float32), np.zeros((20, 3), np.float32)) == 1.0
    assert drift.look([], []) == {}
