"""From proposals to one answer: the ladder's rules, by planted cases and by properties over random proposals."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatelier.contracts import Proposal
from moatelier.errors import UpstreamError
from serving.aggregate import agreements, compare, form, majority, select, similarity, vote


def proposals(*given: tuple[str, Any]) -> list[Proposal]:
    """(text, likelihood or {field: value}) in places."""
    made = []
    for place, (text, told) in enumerate(given):
        fields = told if isinstance(told, dict) else {"likelihood": told}
        made.append(Proposal(layer=0, place=place, model=f"m{place}", text=text, **fields))
    return made


EVEN = {"prior": 1.0, "likelihood": 1.0, "agreement": 1.0}
some = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "A.", " b "]),
        st.fixed_dictionaries(
            {"prior": st.floats(0, 1), "likelihood": st.one_of(st.none(), st.floats(-50, 0))},
        ),
    ),
    min_size=1,
    max_size=8,
)


def test_forms_differ_only_in_what_matters() -> None:
    assert form("  Card \n Arrival. ") == form("card arrival") != form("card arrivals")
    assert form("...") == form("")


def test_short_answers_agree_or_not_and_long_ones_in_part() -> None:
    assert similarity("card_arrival", "card_delivery") == 0.0
    long = "the parcel left our warehouse on monday and it will be with you within three working days at the latest"
    near = long.replace("monday", "tuesday")
    assert 0.8 < similarity(long, near) < 1.0 == similarity(long, long)


def test_selection_takes_the_likeliest_of_what_nobody_shares() -> None:
    assert select(proposals(("a", -0.9), ("b", -0.2), ("c", -0.5)), **EVEN).text == "b"


def test_agreement_outweighs_a_little_likelihood_and_not_a_lot() -> None:
    assert select(proposals(("a", -0.5), ("b", -0.2), ("a", -0.6)), **EVEN).text == "a"
    assert select(proposals(("a", -3.0), ("b", -0.2), ("a", -3.0)), **EVEN).text == "b"
    assert select(proposals(("a", -0.5), ("b", -0.2), ("a", -0.6)), **EVEN | {"agreement": 0.0}).text == "b"


def test_the_routers_word_counts_as_its_exponent_says() -> None:
    given = proposals(("a", {"prior": 0.9, "likelihood": -0.5}), ("b", {"prior": 0.1, "likelihood": -0.1}))
    assert select(given, **EVEN).text == "a"
    assert select(given, **EVEN | {"prior": 0.0}).text == "b"
    assert vote(given, prior=1.0, likelihood=0.0).text == "a"
    assert vote(given, prior=0.0, likelihood=1.0).text == "b"


def test_a_likelihood_that_was_not_told_is_neither_praise_nor_blame() -> None:
    assert select(proposals(("a", -0.9), ("b", None), ("c", -0.1)), **EVEN).text == "c"
    assert select(proposals(("a", None), ("b", None)), **EVEN).text == "a"


def test_a_vote_joins_what_only_looks_different() -> None:
    assert vote(proposals(("b", 0), ("Refund", 0), (" refund. ", 0)), prior=1.0, likelihood=0.0).text == "Refund"


def test_comparing_tells_whether_all_say_the_same() -> None:
    words = {"same": "yes", "different": "no"}
    assert compare(proposals(("Star.", -0.1), ("star", -0.2)), **words).text == "yes"
    assert compare(proposals(("star", 0), ("star", 0), ("cross", 0)), **words).text == "no"
    with pytest.raises(UpstreamError, match="Only m0 answered"):
        compare(proposals(("star", 0)), **words)


def test_a_majority_and_its_share() -> None:
    chosen, share = majority(proposals(("x", 0), ("Y", 0), ("y.", 0), ("z", 0)))
    assert (chosen.place, share) == (1, 0.5)


@given(some)
def test_the_answer_is_one_of_the_proposals_and_order_decides_ties_alone(given: list[tuple[str, Any]]) -> None:
    made = proposals(*given)
    assert select(made, **EVEN) in made and vote(made, prior=1.0, likelihood=1.0) in made
    assert all(0 < agreed <= 1 for agreed in agreements(made))


@given(some)
def test_one_more_voice_for_the_winner_leaves_it_the_winner(given: list[tuple[str, Any]]) -> None:
    made = proposals(*given)
    winner = vote(made, prior=1.0, likelihood=0.0)
    more = [*made, winner.model_copy(update={"place": len(made), "prior": 1.0})]
    assert form(vote(more, prior=1.0, likelihood=0.0).text) == form(winner.text)


@pytest.mark.parametrize("count", [1, 5])
def test_equal_votes_go_to_whoever_stands_first(count: int) -> None:
    made = proposals(*[("b", 0)] * count, *[("a", 0)] * count)
    assert vote(made, prior=1.0, likelihood=0.0).text == "b"
