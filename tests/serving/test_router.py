"""The router: its probabilities, what may and may not change them, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moatelier.contracts import Calibration
from moatelier.errors import DataError, IntegrityError, InvalidRequest
from serving.prototypes import A_LABEL, LIMIT, pack, profile, prototype_of, unit, unpack
from serving.router import BASE, LONGEST_TEXT, Router, routed_text
from tests.serving.clusters import DIMS, around, make_profile, manifest, nobodys, world

calibrations = st.builds(
    Calibration,
    temperature=st.floats(0.005, 1),
    threshold=st.floats(-0.5, 1),
    width=st.floats(0.002, 0.5),
)


@settings(max_examples=60, deadline=None)
@given(domains=st.integers(0, 7), seed=st.integers(0, 1000), calibration=calibrations)
def test_probabilities_sum_to_one_with_the_bases(domains: int, seed: int, calibration: Calibration) -> None:
    router = Router(world(domains, rows=5, seed=seed).profiles, calibration)
    ranked = router.route(nobodys(1, seed + 1)[0])
    assert sum(ranked.chances) == pytest.approx(1, abs=1e-9)
    assert all(chance >= 0 for chance in ranked.chances)
    assert list(ranked.chances) == sorted(ranked.chances, reverse=True)
    assert set(ranked.names) == {*router.adapters, BASE}
    assert len(ranked.top(3)) == min(3, domains) and BASE not in {each.name for each in ranked.top(3)}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(5)))
def test_the_order_of_the_profiles_changes_nothing(seed: int, order: list[int]) -> None:
    profiles = world(5, rows=6, seed=seed).profiles
    vector = nobodys(1, seed)[0]
    assert Router([profiles[n] for n in order]).route(vector) == Router(profiles).route(vector)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_an_adapter_that_is_far_away_changes_nothing_near(seed: int) -> None:
    there = world(4, noise=0.05, rows=10, seed=seed)
    vectors, _ = there.rows(3, seed + 1)
    before, far = (
        Router(there.profiles),
        make_profile("far", around(-unit(there.centres.sum(axis=0)), 10, 0.02, np.random.default_rng(0))),
    )
    after = Router([*there.profiles, far])
    for vector in vectors:
        one, two = before.route(vector), after.route(vector)
        if one.cosine - float(after.scores(vector[None])[0, after.adapters.index(far.adapter)]) < 0.7:
            continue  # not far from this one
        assert two.choice == one.choice
        for name, chance in one.probabilities.items():
            assert two.probabilities[name] == pytest.approx(chance, abs=1e-5)


def test_rows_go_to_their_own_adapter_and_texts_of_nobody_to_the_base() -> None:
    there = world(6)
    router = Router(there.profiles, Calibration(temperature=0.05, threshold=0.7, width=0.05))
    vectors, owners = there.rows(20, seed=5)
    assert [router.route(vector).choice for vector in vectors] == [router.adapters[owner] for owner in owners]
    strangers = [router.route(vector) for vector in nobodys(50, seed=9)]
    assert all(ranked.abstains and ranked.choice == BASE for ranked in strangers)


def test_a_thousand_adapters_with_sixteen_prototypes_each() -> None:
    random = np.random.default_rng(0)
    one = make_profile("many", around(nobodys(1, 0)[0], 8, 0.1, random))
    many = [
        one.model_copy(update={"adapter": f"{n:064x}", "prototypes": pack(nobodys(16, n)), "counts": (1,) * 16})
        for n in range(1000)
    ]
    router = Router(many)
    vectors = np.stack([unpack(many[n].prototypes, DIMS)[3] for n in (7, 500, 999)])
    assert router.scores(vectors).shape == (3, 1000)
    for n, vector in zip((7, 500, 999), vectors, strict=True):
        ranked = router.route(vector)
        assert len(ranked.names) == 1001 and ranked.top(1)[0].name == many[n].adapter
        assert ranked.cosine == pytest.approx(1, abs=1e-5)


def test_without_adapters_everything_is_the_bases() -> None:
    ranked = Router([]).route([0.1] * 384)
    assert (ranked.names, ranked.chances, ranked.top(2)) == ((BASE,), (1.0,), [])


@pytest.mark.parametrize(
    ("vector", "told"), [([1.0] * (DIMS + 1), "24 numbers"), ([float("nan")] * DIMS, "none"), ([], "24 numbers")]
)
def test_a_vector_that_cannot_be_routed_is_refused(vector: list[float], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        Router(world(2).profiles).route(vector)


def test_profiles_that_do_not_belong_together_are_refused() -> None:
    one, two = world(2).profiles
    with pytest.raises(InvalidRequest, match="two profiles"):
        Router([one, one])
    with pytest.raises(InvalidRequest, match="different embedding models"):
        Router([one, two.model_copy(update={"embedding_digest": "f" * 64})])
    with pytest.raises(IntegrityError, match="cannot be read"):
        Router([one.model_copy(update={"prototypes": "no vectors"})])
    with pytest.raises(IntegrityError, match="cannot be read"):
        unpack(pack(nobodys(3, 0)), DIMS + 1)
    with pytest.raises(IntegrityError, match="numbers that are none"):
        unpack(pack(np.full((1, 4), np.inf, dtype=np.float32)), 4)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 200), labels=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_profile_has_few_prototypes_and_every_row_has_one(rows: int, labels: int, seed: int) -> None:
    vectors = nobodys(rows, seed)
    named: list[str | None] = [f"label {n % labels}" for n in range(rows)]
    owners = prototype_of(vectors, named, seed=seed)
    assert sorted(set(owners)) == list(range(owners.max() + 1))
    assert owners.max() < max(LIMIT, A_LABEL * labels) + labels  # each label rounds its share by less than one
    for place in range(owners.max() + 1):
        assert len({named[n] for n in np.flatnonzero(owners == place)}) == 1
    made = profile(manifest("p"), vectors, named, embedding="e", embedding_digest="e" * 64, seed=seed)
    assert sum(made.counts) == rows and len(unpack(made.prototypes, DIMS)) == len(made.counts)
    assert np.allclose(np.linalg.norm(unpack(made.prototypes, DIMS), axis=1), 1, atol=1e-5)
    assert made == profile(manifest("p"), vectors, named, embedding="e", embedding_digest="e" * 64, seed=seed)


def test_clusters_of_a_chat_are_found_without_labels() -> None:
    random = np.random.default_rng(0)
    centres = nobodys(4, 3)
    vectors = np.concatenate([around(centre, 40, 0.05, random) for centre in centres])
    made = make_profile("chat", vectors, [])
    nearest = (unpack(made.prototypes, DIMS) @ centres.T).max(axis=0)
    assert (nearest > 0.95).all()


def test_nearness_leaves_the_row_itself_out() -> None:
    alone = make_profile("alone", nobodys(4, 1), ["a", "b", "c", "d"])
    assert alone.nearness < 0.9, "four unlike rows are not near to anything but themselves"
    assert 0.95 < make_profile("tight", around(nobodys(1, 1)[0], 50, 0.02, np.random.default_rng(0))).nearness <= 1


def test_no_rows_no_profile() -> None:
    with pytest.raises(DataError, match="no profile"):
        make_profile("none", np.zeros((0, DIMS), dtype=np.float32), [])


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": " hello "}], "hello"),
        (
            [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
            "a\nb",
        ),
        (
            [
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "last"},
            ],
            "last",
        ),
        ([{"role": "user", "content": "asked"}, {"role": "assistant", "content": "answered"}], "asked"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]}],
            "look",
        ),
        ([{"role": "system", "content": "only this"}], ""),
        ([{"role": "user", "content": None}], ""),
        ([], ""),
    ],
)
def test_a_conversation_is_routed_by_what_the_person_said_last(messages: list[dict[str, object]], text: str) -> None:
    assert routed_text(messages) == text


def test_only_the_end_of_a_long_text_is_routed_by() -> None:
    assert len(routed_text([{"role": "user", "content": "word " * 5000 + "end"}])) <= LONGEST_TEXT
