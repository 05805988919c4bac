from training.batches import Example, epoch_batches, micro_batches, steps_per_epoch

LENGTHS = [5 + (7 * row) % 31 for row in range(101)]


def test_every_row_comes_once_an_epoch_and_no_batch_is_too_large() -> None:
    batches = epoch_batches(LENGTHS, 4, seed=0, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(101))
    assert len(batches) == steps_per_epoch(101, 4) == 26
    assert sorted(len(batch) for batch in batches) == [1] + [4] * 25


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert epoch_batches(LENGTHS, 4, 0, 1) == epoch_batches(LENGTHS, 4, 0, 1)
    assert epoch_batches(LENGTHS, 4, 0, 1) != epoch_batches(LENGTHS, 4, 0, 2)
    assert epoch_batches(LENGTHS, 4, 0, 1) != epoch_batches(LENGTHS, 4, 1, 1)


def test_rows_of_a_batch_are_alike_in_length() -> None:
    spreads = [
        max(LENGTHS[row] for row in batch) - min(LENGTHS[row] for row in batch)
        for batch in epoch_batches(LENGTHS, 4, 0, 0)
    ]
    assert sum(spreads) / len(spreads) < 8  # of 30 in the whole


def test_micro_batches_hold_every_row_and_stay_below_the_bound_as_padded() -> None:
    pieces = micro_batches(LENGTHS, range(101), most=100)
    assert sorted(row for piece in pieces for row in piece) == list(range(101))
    assert all(len(piece) * max(LENGTHS[row] for row in piece) <= 100 for piece in pieces)


def test_a_row_longer_than_the_bound_stands_alone() -> None:
    assert micro_batches([5, 500, 5], [0, 1, 2], most=100) == [[0, 2], [1]]


def test_targets_are_the_trained_positions() -> None:
    assert Example("row", (1, 2, 3, 4), (False, True, False, True)).targets == [1, 3]
