import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from modalities.clusters import UnionFind, exact_groups
from modalities.text.duplicates import (
    NEAR,
    jaccard,
    near_any,
    near_clusters,
    normalise,
    shingles,
)

LONG = "I would like to know when the green lamp that I ordered last week will arrive"


def test_normalised_texts_ignore_case_blanks_and_width() -> None:
    assert normalise("  Ｈello\n WORLD ") == normalise("hello world")


def test_short_texts_are_compared_by_their_words() -> None:
    assert shingles("lost card") == {"lost", "card"}
    assert shingles("lost my card") == {"lost my card"}
    assert shingles("???") == {"???"}


def test_one_more_word_is_near_and_another_sentence_is_not() -> None:
    texts = [LONG, "Cancel it", LONG + " please", "cancel it!", "Something else entirely in this row"]
    assert near_clusters(texts) == [[0, 2], [1, 3]]


def test_a_chain_of_near_texts_is_one_cluster() -> None:
    words = LONG.split()
    chain = [" ".join(words + ["x", "y", "z", "v", "w"][:n]) for n in range(6)]
    assert jaccard(shingles(chain[0]), shingles(chain[-1])) < NEAR
    assert near_clusters(chain) == [[0, 1, 2, 3, 4, 5]]


def test_rows_near_another_file() -> None:
    rows = ["a different text about kettles and lamps", LONG + " please", LONG, LONG.upper(), "hello there"]
    assert near_any(rows, [LONG]) == [1, 2, 3]
    assert near_any(rows, []) == []
    assert near_any([LONG, LONG + " thanks"], ["nothing alike in here at all"]) == []


def test_exact_groups() -> None:
    assert exact_groups(["a", "b", "a", "c", "b", "a"]) == [[0, 2, 5], [1, 4]]


WORDS = st.sampled_from("lamp chair order late where cancel my the refund please".split())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=9).map(" ".join), max_size=25))
def test_clusters_are_those_of_comparing_every_pair(texts: list[str]) -> None:
    sets = UnionFind(len(texts))
    for i in range(len(texts)):
        for j in range(i):
            if jaccard(shingles(texts[i]), shingles(texts[j])) >= NEAR:
                sets.join(i, j)
    assert near_clusters(texts) == [members for members in sets.sets() if len(members) > 1]


def test_ten_thousand_short_rows_in_time() -> None:
    dice = random.Random(3)
    words = [f"word{i}" for i in range(400)]
    texts = [" ".join(dice.choices(words, k=dice.randint(3, 20))) for _ in range(10_000)]
    began = time.process_time()
    assert len(near_clusters(texts + [texts[5] + " more"])) <= 2
    assert time.process_time() - began < 20


def test_a_thousand_copies_are_no_burden() -> None:
    began = time.process_time()
    assert near_clusters([LONG] * 5000) == [list(range(5000))]
    assert time.process_time() - began < 2
