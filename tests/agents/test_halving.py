"""A search's moves, played out on an invented landscape: what is tried, who goes on, what time it takes."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from agents import halving
from agents.halving import Score, Train, next_move, spent
from agents.rungs import Searched, rungs_of, steps_of
from agents.sampling import Tried, draw
from agents.trainer import Stop
from moatelier.contracts import Leg, Search
from tests.agents.trials import SPEC, result

SPACE = {"rank": (4, 8, 16, 32), "learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), "batch_rows": (8, 16)}
ROWS, STEP_S, LOAD_S = 645, 0.5, 4.0


def about(by: str = "tpe", trials: int = 12, seconds: float = 3600.0, **changes: Any) -> Searched:
    space = changes.pop("space", SPACE)
    usual = SPEC.model_copy(update={"epochs": 3.0} | changes)
    search = Search.model_validate({"by": by, "space": space})
    return Searched(search=search, usual=usual, rows=ROWS, trials=trials, seconds=seconds, row_seconds=STEP_S / 16)


def landscape(leg: Leg) -> float:
    """Best at rank 16 and a rate of 2e-3; it falls with every row seen."""
    off = abs(math.log2(float(leg.spec.learning_rate) / 2e-3)) + 0.3 * abs(math.log2(leg.spec.rank / 16))
    return 0.1 + 0.2 * off + 5 / leg.spec.batch_rows / 10


class Played:
    """Plays a search to its end, as a graph would."""

    def __init__(self, told: Searched, loss: Callable[[Leg], float | None] = landscape, slower: float = 1.0) -> None:
        self.told, self.loss, self.slower = told, loss, slower
        self.legs: list[Leg] = []
        self.scored: list[str] = []
        self.moves: list[Any] = []

    def step(self) -> bool:
        move = next_move(self.told, self.legs, self.scored)
        self.moves.append(move)
        if isinstance(move, Stop):
            return False
        if isinstance(move, Score):
            assert move.leg.result
            self.scored.append(move.leg.result.bundle)
        else:
            self.legs.append(self.ran(move.leg))
        return True

    def ran(self, leg: Leg) -> Leg:
        key = f"key-{leg.trial}-{leg.rung}"
        loss = self.loss(leg)
        if loss is None:
            return leg.model_copy(update={"key": key, "error": "The loss became nan."})
        earlier = halving.before(leg, self.legs)
        done = earlier.result.steps if earlier and earlier.result else 0
        used = earlier.result.seconds if earlier and earlier.result else 0.0
        whole = steps_of(leg.spec, ROWS)
        wanted = leg.spec.until_steps or whole
        step_s = self.slower * STEP_S * leg.spec.batch_rows / 16 * (3.5 if leg.spec.layers == "all" else 1)
        most = int(((leg.spec.max_seconds or math.inf) - used) / step_s)
        steps = min(wanted, done + most)
        stopped = "out_of_time" if steps < wanted else "finished" if steps == whole else "paused"
        made = result(
            bundle=f"{leg.trial:032d}{leg.rung:032d}",
            steps=steps,
            seconds=used + (steps - done) * step_s + (8.0 if not self.legs else 0.0),
            dev_loss=loss + 1 / steps,
            stopped=stopped,
            loading_seconds=LOAD_S,
        )
        ran = leg.model_copy(update={"key": key, "result": made})
        return ran.model_copy(update={"seconds": halving.measured(ran, earlier)})

    def out(self) -> "Played":
        while self.step():
            assert len(self.moves) < 100
        return self


@pytest.mark.parametrize("by", ["grid", "random", "tpe"])
def test_a_third_goes_on_at_each_rung_and_the_last_are_scored(by: str) -> None:
    played = Played(about(by)).out()
    assert [sum(leg.rung == rung for leg in played.legs) for rung in range(3)] == [12, 4, 2]
    assert rungs_of(played.told) == (215, 645, 1935)
    assert len({str(leg.values) for leg in played.legs if leg.rung == 0}) == 12
    first, second = ([leg for leg in played.legs if leg.rung == rung] for rung in (0, 1))
    assert max(map(halving.loss_of, second)) <= sorted(map(halving.loss_of, first))[4]
    assert len(played.scored) == 2
    assert all(
        leg.spec.until_steps is None and leg.result.stopped == "finished" for leg in played.legs if leg.rung == 2
    )
    assert isinstance(played.moves[-1], Stop) and "2 to the end" in played.moves[-1].reason
    assert spent(played.legs) < 12 * 120 * STEP_S / 2, "less than half of twelve whole trainings"


def test_tpe_finds_what_is_good_and_looks_closer_there() -> None:
    played = Played(about("tpe", trials=20)).out()
    rates = [leg.spec.learning_rate for leg in played.legs if leg.rung == 0]
    near = [1e-3 <= rate <= 4e-3 for rate in rates]
    assert sum(near[10:]) > sum(near[:10]) - 1 and sum(near[10:]) >= 6
    best = next(leg for leg in played.legs if leg.rung == 2)
    assert (best.spec.rank, best.spec.learning_rate, best.spec.alpha) == (16, 2e-3, 32.0)


def test_the_first_trial_is_what_the_trainer_would_take() -> None:
    for by in ("random", "tpe"):
        move = next_move(about(by, learning_rate=2.1e-3, rank=8), [], [])
        assert isinstance(move, Train) and move.leg.values == {"batch_rows": 16, "learning_rate": 2e-3, "rank": 8}


def test_a_later_leg_goes_on_from_the_one_before() -> None:
    played = Played(about()).out()
    by_key = {leg.key: leg for leg in played.legs}
    for leg in (each for each in played.legs if each.rung):
        earlier = by_key[str(leg.spec.goes_on)]
        assert (earlier.trial, earlier.rung, earlier.spec.essence) == (leg.trial, leg.rung - 1, leg.spec.essence)


def test_every_move_follows_from_the_legs_alone() -> None:
    played = Played(about()).out()
    for at in range(len(played.legs)):
        scored = [] if isinstance(played.moves[at], Train) else played.scored[: at - len(played.legs)]
        assert next_move(played.told, played.legs[:at], scored) == played.moves[at]


@pytest.mark.parametrize("seconds", [20, 45, 90, 150, 240, 400, 700])
@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_time_budget_is_hard_and_the_best_so_far_is_scored(seconds: float, slower: float) -> None:
    played = Played(about(seconds=seconds), slower=slower).out()
    assert spent(played.legs) <= seconds + 8 + STEP_S * slower, "but for the cache, which no forecast knew of"
    assert played.scored, "something goes to the gate"
    if seconds >= 240 and slower <= 1:
        assert any(leg.result and leg.result.stopped == "finished" for leg in played.legs), "what began was ended"


def test_less_time_means_fewer_trials_not_unfinished_ones() -> None:
    begun = [
        sum(leg.rung == 0 for leg in Played(about(seconds=seconds)).out().legs) for seconds in (120, 180, 260, 900)
    ]
    assert begun == sorted(begun) and begun[0] < 6 and begun[-1] == 12


def test_a_failed_training_is_worse_than_the_worst_and_ends_nothing() -> None:
    played = Played(about(), lambda leg: None if leg.spec.learning_rate == 4e-3 else landscape(leg)).out()
    assert any(leg.error for leg in played.legs) and played.scored
    assert all(leg.rung == 0 for leg in played.legs if leg.error)


def test_when_the_first_trials_all_fail_it_is_not_their_settings() -> None:
    played = Played(about(), lambda leg: None).out()
    assert len(played.legs) == 3 and "nan" in played.moves[-1].reason


def test_checkpoints_are_kept_for_those_that_may_go_on() -> None:
    played = Played(about())
    while played.step():
        out = halving.done_with(played.told, played.legs)
        begun = {leg.trial for leg in played.legs}
        assert len(begun - out) <= 4
        move = next_move(played.told, played.legs, played.scored)
        if isinstance(move, Train) and move.leg.rung:
            assert move.leg.trial not in out
    assert out == begun


def test_a_trial_with_few_epochs_is_whole_at_a_low_rung_and_needs_no_further_leg() -> None:
    played = Played(about(space={"epochs": (0.3, 3.0), "rank": (4, 8, 16)}, trials=6)).out()
    short = [leg for leg in played.legs if leg.spec.epochs == 0.3]
    assert short and all(leg.result and leg.result.stopped == "finished" and leg.rung == 0 for leg in short)
    keys = [(leg.trial, leg.rung) for leg in played.legs]
    assert len(keys) == len(set(keys))


def test_another_method_brings_its_own_start_and_a_grid_is_tried_whole() -> None:
    space = {"method": ("image_lora", "top_blocks"), "layers": ("all", "top_third")}
    played = Played(about("grid", space=space, method="image_lora", rank=8)).out()
    first = [leg for leg in played.legs if leg.rung == 0]
    assert [(leg.spec.method, leg.spec.layers, leg.spec.rank) for leg in first] == [
        ("image_lora", "all", 8),
        ("top_blocks", "all", 1),
        ("image_lora", "top_third", 8),
        ("top_blocks", "top_third", 1),
    ]


@pytest.mark.parametrize("by", ["grid", "random", "tpe"])
def test_a_space_is_used_up_without_repeats(by: str) -> None:
    search = Search.model_validate({"by": by, "space": {"rank": (4, 8), "layers": ("all", "top_third")}})
    tried: list[Tried] = []
    while (values := draw(search, {"rank": 8}, tried, 20, 0)) is not None:
        tried.append(Tried(values, float(len(tried))))
    assert len({str(each.values) for each in tried}) == len(tried) == 4


def test_two_seeds_draw_differently_and_one_seed_alike() -> None:
    search = Search.model_validate({"by": "random", "space": SPACE})

    def drawn(seed: int) -> list[Any]:
        tried: list[Tried] = []
        for _ in range(8):
            values = draw(search, {}, tried, 8, seed)
            assert values is not None
            tried.append(Tried(values, 1.0))
        return [each.values for each in tried]

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(
    "space",
    [
        {},
        {"rank": ()},
        {"rank": (0, 8)},
        {"rank": (8.5,)},
        {"rank": (8, 8)},
        {"learning_rate": (5,)},
        {"data_part": (1.5,)},
        {"layers": ("some",)},
        {"method": (1,)},
        {"dropout": (0.1,)},
    ],
)
def test_a_space_that_cannot_be_tried_is_refused(space: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs|outside of|none of|cannot be searched"):
        Search.model_validate({"by": "tpe", "space": space})
