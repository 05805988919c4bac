"""Measures against what is planted: made-up answers, a chunk that holds the answer, a judge that likes places."""

import asyncio
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evals import measures
from moatelier.errors import DataError


def test_the_entropy_of_a_token_by_hand() -> None:
    sure = measures.uncertainty([(math.log(0.99), {1: math.log(0.99)})])
    torn = measures.uncertainty([(math.log(0.5), {1: math.log(0.5), 2: math.log(0.5)})] * 2)
    assert torn.entropy == pytest.approx(math.log(2)) and torn.logprob == pytest.approx(math.log(0.5))
    assert sure.entropy == pytest.approx(-(0.99 * math.log(0.99) + 0.01 * math.log(0.01)))
    with pytest.raises(DataError):
        measures.uncertainty([])


def test_samples_that_say_the_same_are_consistent_and_made_up_ones_are_not() -> None:
    known = measures.consistency(["It was built in 1889.", "It was built in 1889!", "Built in 1889.", "In 1889 built."])
    made_up = measures.consistency(
        ["It was built in 1820.", "Napoleon opened it.", "Nobody knows.", "In 1999, by Anna."]
    )
    assert known.agreement == 1 and known.meanings == 1 and known.entropy == 0
    assert made_up.agreement < 0.2 and made_up.meanings == 4 and made_up.entropy == pytest.approx(math.log(4))
    with pytest.raises(DataError):
        measures.consistency(["one"])


CHUNKS = ["The tower is old. It has stairs.", "The ticket costs nine euros. Children pay four.", "The cafe sells cake."]


def test_context_relevance_and_completeness() -> None:
    assert measures.context_relevance("What does the ticket cost?", CHUNKS) == pytest.approx(1 / 5)
    reference = "The ticket costs nine euros. Children pay four."
    assert measures.completeness("Nine euros is what a ticket costs, children pay four.", reference) == 1
    assert measures.completeness("A ticket costs nine euros.", reference) == 0.5
    assert measures.completeness("The sky is blue.", reference) == 0
    with pytest.raises(DataError):
        measures.context_relevance("x", [])


@pytest.mark.parametrize("planted", range(8))
def test_the_planted_chunk_ranks_first(planted: int) -> None:
    random = np.random.default_rng(planted)
    chunks = [f"Chunk {n} tells of {random.integers(100)}. It goes on." for n in range(8)]
    chunks[planted] = "The key lies under the mat. Nobody looks there."

    def likelihood(shown: list[str] | tuple[str, ...]) -> float:
        return -0.5 + 0.3 * any("mat" in chunk for chunk in shown) + 0.02 * len(shown)

    found = measures.grounding(chunks, likelihood)  # type: ignore[arg-type]  # it takes any sequence
    assert found.first == planted and found.attribution[planted] == pytest.approx(0.32)
    assert found.utilisation[planted] == 0.5


def test_wrong_labels_stand_out_over_a_training() -> None:
    """5 % of the labels are flipped; a softmax regression is trained, and its margins are watched."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 400)
    texts = random.normal(0, 1, (400, 12)) + 1.5 * np.eye(3, 12)[truth]
    wrong = random.random(400) < 0.05
    labels = np.where(wrong, (truth + 1 + random.integers(0, 2, 400)) % 3, truth)
    weights, margins = np.zeros((12, 3)), []
    for _ in range(20):
        logits = texts @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        own = shares[np.arange(400), labels]
        others = np.where(np.eye(3, dtype=bool)[labels], 0, shares).max(axis=1)
        margins.append(np.log(own) - np.log(others))
        weights -= 0.5 * texts.T @ (shares - np.eye(3)[labels]) / 400
    assert roc_auc_score(wrong, measures.error_potential(np.array(margins))) >= 0.8


def judged(says: object) -> measures.Preferences:
    async def ask(messages: list[dict[str, str]]) -> str:
        return str(says(messages[1]["content"]) if callable(says) else says)

    rows = [("which?", "better", "worse")] * 4
    return asyncio.run(measures.preferences(rows, ask))


def test_a_judge_that_reads_wins_in_both_orders() -> None:
    found = judged(lambda text: "first" if "First answer:\nbetter" in text else "second")
    assert (found.wins, found.losses, found.ties, found.swayed) == (4, 0, 0, 0)
    assert found.rate is not None and found.rate.point == 1 and found.rate.low < 0.6


def test_a_judge_that_likes_the_first_place_decides_nothing() -> None:
    found = judged("first")
    assert (found.wins, found.losses, found.ties, found.swayed) == (0, 0, 4, 1) and found.rate is None


def test_a_judge_that_talks_junk_is_counted_and_decides_nothing() -> None:
    for junk in ("", "both are lovely", "first or second"):
        found = judged(junk)
        assert (found.wins, found.unjudged, found.rate) == (0, 4, None)
