import pytest

from agents.costs import Work, cheaper, estimate, told

SPEED = {
    "train_rows_per_s": 10.0,
    "frozen_rows_per_s": 50.0,
    "dev_rows_per_s": 20.0,
    "start_seconds": 1.0,
    "peak_bytes": 4_000_000_000,
    "held_bytes": 1_000_000_000,
    "micro_tokens": 1024,
    "cache_bytes": 1000,
}
LENGTHS = tuple((40 * (place + 1) if place < 12 else 400 * place, 5) for place in range(16))
WORK = Work(rows=1000, dev_rows=200, epochs=3, lengths=LENGTHS, longest=6000, price=3.6)


def test_a_trial_takes_its_frozen_part_once_its_steps_and_a_look_after_each_epoch() -> None:
    takes = estimate(SPEED, WORK)
    assert takes.frozen_seconds == 1 + 1200 / 50 and takes.epoch_seconds == 1000 / 10 + 200 / 20
    assert takes.seconds == takes.frozen_seconds + 3 * takes.epoch_seconds
    assert takes.cost == pytest.approx(takes.seconds / 1000)
    assert takes.peak_bytes == 4_000_000_000 + 1200 * 1000


def test_half_an_epoch_is_looked_at_once_and_no_price_is_no_cost() -> None:
    takes = estimate(SPEED, WORK.model_copy(update={"epochs": 0.5, "price": None}))
    assert takes.seconds == takes.frozen_seconds + 50 + 10 and takes.cost is None


@pytest.mark.parametrize("budget", [60, 100, 200, 300])
def test_three_trials_fit_into_a_budget_that_is_too_small(budget: float) -> None:
    assert estimate(SPEED, WORK).seconds > budget
    options = cheaper(SPEED, WORK, budget)
    assert len(options) == 3 and all(each.estimate.seconds <= budget for each in options)
    assert len({each.limits for each in options}) == 3
    for each in options:  # what it takes is what a trial within these limits takes
        if each.limits.tokens is None:
            rows, epochs = each.limits.rows or WORK.rows, each.limits.epochs or WORK.epochs
            again = estimate(SPEED, WORK.model_copy(update={"rows": rows, "epochs": epochs}))
            assert again == each.estimate


def test_short_rows_alone_are_fewer_and_smaller() -> None:
    [short] = [each for each in cheaper(SPEED, WORK, 100) if each.limits.tokens]
    assert short.limits.tokens is not None and short.limits.tokens < 6000
    assert short.estimate.seconds < 100 and short.estimate.peak_bytes < estimate(SPEED, WORK).peak_bytes


def test_rows_of_one_length_offer_fewer_epochs_and_rows() -> None:
    options = cheaper(SPEED, WORK.model_copy(update={"lengths": ((50, 5),) * 8, "longest": 50}), 200)
    assert [(bool(each.limits.epochs), bool(each.limits.rows)) for each in options][:2] == [
        (True, False),
        (False, True),
    ]
    assert len(options) == 3


def test_memory_that_is_short_is_helped_by_shorter_rows_alone() -> None:
    [option] = cheaper(SPEED, WORK, 10_000, room_bytes=3_000_000_000)
    tokens = option.limits.tokens
    assert tokens is not None and tokens <= 6000 * 2 / 3 and option.estimate.peak_bytes <= 3_100_000_000
    assert cheaper(SPEED, WORK, 10_000, room_bytes=1_000_000_000) == []


def test_a_budget_that_is_used_up_by_the_frozen_layers_offers_fewer_rows() -> None:
    options = cheaper(SPEED, WORK, 24)
    assert all(each.limits.rows or each.limits.tokens for each in options)


def test_the_options_are_numbered_with_their_figures() -> None:
    options = cheaper(SPEED, WORK, 200)
    words = told(options)
    assert "1: " in words and "3: " in words and "costs 0." in words and options[0].change in words
    assert told([]) == "Nothing smaller fits."


def test_frozen_layers_whose_output_is_not_kept_run_in_each_epoch() -> None:
    takes = estimate(SPEED, WORK.model_copy(update={"cache_room": 1000.0}))
    assert takes.frozen_seconds == 1 + 3 * 1200 / 50 and takes.peak_bytes == SPEED["peak_bytes"]
