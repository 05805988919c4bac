"""Recall both ways: who counts as found, among how many, and the promise of its bounds though rows interfere."""

import numpy as np
import pytest
from numpy.typing import NDArray

from evals import matching, recall
from evals.answered import Answered, Found
from evals.matching import RANKS, groups, places, sway
from evals.scorers import compare, need_metric, score
from evals.statistics import clopper_pearson, exact_lower
from moatelier.errors import DataError, InvalidRequest
from modalities.vision.metrics import recall_at

Array = NDArray[np.float64]


def found(*ranks: tuple[int, int], pictures: int = 0) -> list[Answered]:
    """Rows that stand in nobody's way, some of them of one picture."""
    still = ((0.0, 0.0), (0.0, 0.0))
    return [
        Answered("a", "a", found=Found(pair, still, f"picture {n % pictures}" if pictures else f"picture {n}"))
        for n, pair in enumerate(ranks)
    ]


def drawn(chance: np.random.Generator, count: int, noise: float, hubs: float = 0.0) -> tuple[Array, Array]:
    """Vectors of pictures and of their captions; hubs are captions that are like all pictures."""
    own = chance.normal(size=(count, 12))
    images = own + noise * chance.normal(size=own.shape)
    texts = own + noise * chance.normal(size=own.shape)
    images[:, 0] += 1.5
    texts[chance.random(count) < hubs, 0] += 6
    return tuple(each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images, texts))


def answered(images: Array, texts: Array) -> list[Answered]:
    """As the job would answer, row n being the n-th of the order."""
    seen = object.__new__(matching._Seen)
    seen.images, seen.texts, seen.pixels = images, texts, [f"{n}" for n in range(len(images))]
    rows = [matching.EvalRow(f"{n}", (), f"caption {n}") for n in range(len(images))]
    return matching._find(seen, rows, len(rows), groups([f"{n:05}" for n in range(len(rows))], 0))


def test_every_row_is_sought_among_as_many_whatever_their_number() -> None:
    for count in (50, 51, 99, 100, 160, 1001):
        made = groups([f"{n * 7919 % count:05}" for n in range(count)], 0)
        assert sorted(row for judged, _ in made for row in judged) == list(range(count))
        assert all(len({*judged, *others}) == len(judged) + len(others) == 50 for judged, others in made)
    [(judged, others)] = groups(["b", "a", "c"], 60)
    assert judged == [1, 0, 2] and others == list(range(3, 50)), "training rows fill up a small split"
    [(judged, others)] = groups(["b", "a"], 5)
    assert len(judged + others) == 7


def test_equal_pictures_and_equal_captions_are_each_others() -> None:
    likeness = np.array([[0.2, 0.9, 0.1], [0.1, 0.8, 0.9], [0.5, 0.1, 0.4]])
    alone, pair = np.eye(3, dtype=bool), np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    assert places(likeness, alone).tolist() == [[1, 1], [1, 1], [1, 1]]
    assert places(likeness, pair).tolist() == [[0, 1], [1, 0], [1, 1]]
    assert places(np.ones((3, 3)), alone).min() == 2, "who tells nothing apart finds nothing"


def test_it_is_the_recall_that_the_modality_measures() -> None:
    images, texts = drawn(np.random.default_rng(0), 50, 0.9)
    ids = [str(n) for n in range(50)]
    scores = score("retrieval", (), answered(images, texts))
    for k in RANKS:
        to_captions, to_pictures = recall_at(images @ texts.T, ids, ids, k)
        assert scores.metrics[f"recall_at_{k}"].point == pytest.approx((to_captions + to_pictures) / 2)
    to_captions, to_pictures = recall_at(images @ texts.T, ids, ids, 1)
    assert scores.metrics["caption_at_1"].point == pytest.approx(to_captions)
    assert scores.metrics["picture_at_1"].point == pytest.approx(to_pictures)


def test_without_what_stands_before_many_many_are_found() -> None:
    likeness = np.eye(5) * 0.5
    likeness[:, 4] = 0.9  # the last caption is like everything
    same = np.eye(5, dtype=bool)
    found_without = sway(likeness, same, 5, 1)
    assert found_without[4].tolist() == [4.0, 0.0] and not found_without[:4].any()
    assert sway(likeness, same, 2, 1)[4].tolist() == [2.0, 0.0], "who is not sought is not found"


def test_rows_that_do_not_interfere_have_the_exact_bounds() -> None:
    for right in (200, 150, 10, 0):
        given = found(*[(0, 0)] * right, *[(9, 9)] * (200 - right))
        scores = score("retrieval", (), given)
        exact = clopper_pearson(right, 200)
        for metric in ("recall_at_1", "recall_at_5", "caption_at_1"):
            told = scores.metrics[metric]
            assert told.point == exact.point and told.method == "efron-stein"
            assert told.claim_low == pytest.approx(exact.claim_low, abs=0.003)
            assert (told.low, told.high) == pytest.approx((exact.low, exact.high), abs=0.004)
    half = score("retrieval", (), found(*[(0, 3)] * 100)).metrics
    assert half["recall_at_1"].point == 0.5 and half["recall_at_5"].point == 1
    assert (half["caption_at_1"].point, half["picture_at_1"].point) == (1, 0)
    assert half["recall_at_1"].claim_low <= exact_lower(50, 100, 0.01) + 1e-9


def test_captions_of_one_picture_are_one_draw() -> None:
    ranks = [(0, 0) if n % 20 < 15 else (9, 9) for n in range(200)]
    apart, together = (score("retrieval", (), found(*ranks, pictures=count)).metrics for count in (0, 20))
    one, other = apart["recall_at_1"], together["recall_at_1"]
    assert one.point == other.point and other.claim_low < one.claim_low - 0.1


def test_what_stands_in_the_way_of_others_lowers_the_bound() -> None:
    still, hubs = (drawn(np.random.default_rng(1), 200, noise, share) for noise, share in ((1.0, 0), (0.6, 0.04)))
    calm, swayed = (score("retrieval", (), answered(*each)).metrics["caption_at_1"] for each in (still, hubs))
    rows = round(calm.point * 200), round(swayed.point * 200)
    assert calm.claim_low < clopper_pearson(rows[0], 200).claim_low
    assert swayed.claim_low < clopper_pearson(rows[1], 200).claim_low - 0.03


def test_two_subjects_are_compared_by_what_they_found() -> None:
    good, poor = found(*[(0, 0)] * 90, *[(9, 0)] * 10), found(*[(0, 0)] * 50, *[(0, 9)] * 40, *[(9, 9)] * 10)
    told = compare("recall_at_1", "retrieval", (), "base", good, poor)
    assert (told.wins, told.losses) == (50, 0) and told.difference.point == pytest.approx(0.25)
    assert 0 < told.difference.claim_low < told.difference.low < 0.25
    same = compare("recall_at_5", "retrieval", (), "other", good, good)
    assert same.difference.point == 0 and same.difference.claim_low < 0
    unmet = [Answered("a", "", found=Found((50, 50)))] * 100
    assert compare("recall_at_1", "retrieval", (), "base", good, unmet).difference.point == pytest.approx(0.95)
    assert score("retrieval", (), unmet).metrics["recall_at_5"].point == 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="recall_at_1"):
        need_metric("retrieval", "accuracy")
    with pytest.raises(InvalidRequest):
        need_metric("classification", "recall_at_1")
    with pytest.raises(DataError):
        score("retrieval", (), [])


@pytest.mark.parametrize(("noise", "hubs"), [(0.5, 0.0), (0.6, 0.03), (0.9, 0.1)])
def test_the_bound_is_seldom_above_what_is_true(noise: float, hubs: float) -> None:
    """At most 1 % is promised, and 3 of 100 are luck."""
    chance, above, runs = np.random.default_rng(3), 0, 100
    ids = [str(n) for n in range(50)]
    pairs = (drawn(chance, 50, noise, hubs) for _ in range(400))
    true = float(np.mean([recall_at(images @ texts.T, ids, ids, 1) for images, texts in pairs]))
    for _ in range(runs):
        told = recall.score_found(answered(*drawn(chance, 120, noise, hubs))).metrics["recall_at_1"]
        above += told.claim_low > true
    assert above <= 3


def test_a_candidate_that_is_worse_by_the_margin_is_seldom_called_no_worse() -> None:
    """Who sees worse is compared on the same pictures and captions, some of which are like everything."""
    chance, ids, runs = np.random.default_rng(4), [str(n) for n in range(50)], 60

    def both(count: int) -> list[tuple[Array, Array]]:
        images, texts = drawn(chance, count, 0.6, 0.03)
        blur = images + 0.05 * chance.normal(size=images.shape)
        return [(blur / np.linalg.norm(blur, axis=1, keepdims=True), texts), (images, texts)]

    def truth(images: Array, texts: Array) -> float:
        return float(np.mean(recall_at(images @ texts.T, ids, ids, 1)))

    gaps = [truth(*worse) - truth(*better) for worse, better in (both(50) for _ in range(400))]
    true, above = float(np.mean(gaps)), 0
    for _ in range(runs):
        ours, theirs = (answered(*each) for each in both(120))
        above += compare("recall_at_1", "retrieval", (), "champion", ours, theirs).difference.claim_low > true
    assert true < 0 and above <= 2
