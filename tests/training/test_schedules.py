"""The learning rate's way through a run."""

from typing import get_args

import pytest

from moatelier.contracts import TrainSpec
from tests.training.rows import spec
from training.schedules import share

NAMES = get_args(TrainSpec.model_fields["schedule"].annotation)


def way(name: str, steps: int = 100, **changes: object) -> list[float]:
    return [share(spec("0" * 64, schedule=name, **changes), step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", NAMES)
def test_each_warms_up_to_the_whole_rate_and_stays_within_it(name: str) -> None:
    shares = way(name, warmup_ratio=0.1)
    assert shares[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert shares[10] == pytest.approx(1.0) and all(0 < at <= 1 for at in shares)
    assert way(name, steps=1)[0] > 0


def test_what_stays_and_then_falls() -> None:
    shares = way("wsd", warmup_ratio=0.0)
    assert shares[:81] == [1.0] * 81 and shares[81:] == sorted(shares[81:], reverse=True)
    assert shares[90] == pytest.approx(1 - 0.5**0.5) and shares[99] < 0.03


def test_the_root_of_the_steps() -> None:
    shares = way("inverse_sqrt", warmup_ratio=0.04)
    assert shares[16] == pytest.approx(0.5) and shares[64] == pytest.approx(0.25)


def test_restarts_and_powers() -> None:
    shares = way("cosine_restarts", warmup_ratio=0.0, cycles=4)
    assert [shares[start] for start in (0, 25, 50, 75)] == pytest.approx([1.0] * 4)
    assert all(shares[start + 24] < 0.01 for start in (0, 25, 50, 75))
    assert way("cosine_restarts", warmup_ratio=0.1, cycles=1) == pytest.approx(way("cosine", warmup_ratio=0.1))
    assert way("polynomial", warmup_ratio=0.0)[50] == pytest.approx(0.25)
