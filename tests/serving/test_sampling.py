import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moatelier.errors import InvalidRequest
from serving.constrained import Grammars
from serving.sampling import LEAST_LOGPROB, Choice, Chooser, Sampling, choose, likelihoods
from tests.fakes import tiny_tokenizer


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("max_tokens", 0, "max_tokens"),
        ("temperature", -0.1, "temperature"),
        ("temperature", 2.5, "temperature"),
        ("temperature", float("nan"), "temperature"),
        ("top_p", 0.0, "top_p"),
        ("top_p", 1.1, "top_p"),
        ("stop", ("",), "stop"),
        ("stop", ("x",) * 17, "stop"),
        ("top_k", -1, "top_k"),
        ("logprobs", -1, "logprobs"),
        ("logprobs", 21, "logprobs"),
        ("deadline_s", 0.0, "deadline_s"),
        ("deadline_s", float("nan"), "deadline_s"),
        ("schema", '{"type":"objekt"}', "response_format"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object, where: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Sampling(**({"max_tokens": 5} | {field: value}))  # type: ignore[arg-type]  # wrong on purpose
    assert refused.value.where == where


def drawn(logits: torch.Tensor, count: int = 200, **options: Any) -> list[int]:
    return [Chooser(Sampling(1, seed=seed, **options))(logits).token for seed in range(count)]


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    assert choose(logits, [Chooser(Sampling(1)), Chooser(Sampling(1))]) == [Choice(1), Choice(0)]


def test_sampling_follows_the_distribution() -> None:
    chances = torch.tensor([0.5, 0.3, 0.2])
    chooser = Chooser(Sampling(1, temperature=1.0, seed=1))
    tokens = torch.tensor([chooser(chances.log()).token for _ in range(4000)])
    assert torch.allclose(torch.bincount(tokens, minlength=3) / 4000, chances, atol=0.03)


@pytest.mark.parametrize("options", [{"top_p": 0.999999}, {"top_k": 3}, {"top_k": 3, "top_p": 0.999999}])
def test_the_distribution_is_kept_within_bounds(options: dict[str, Any]) -> None:
    """Also where tokens are put in order of their chances first."""
    chances = torch.tensor([0.2, 0.5, 0.3])
    chooser = Chooser(Sampling(1, temperature=1.0, seed=1, **options))
    tokens = torch.tensor([chooser(chances.log()).token for _ in range(4000)])
    assert torch.allclose(torch.bincount(tokens, minlength=3) / 4000, chances, atol=0.03)


def test_temperature_sharpens() -> None:
    logits = torch.tensor([0.6, 0.4]).log()
    assert drawn(logits, temperature=0.1).count(0) > 190 > drawn(logits, temperature=1.0).count(0)


def test_top_p_leaves_the_tail_out() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(drawn(logits, temperature=1.0, top_p=0.6)) == {0, 1}


def test_top_p_looks_past_the_likeliest_thousand() -> None:
    """Among 5,000 equals, 0.9 of the mass is 4,500 of them."""
    tokens = drawn(torch.zeros(5000), count=2000, temperature=1.0, top_p=0.9)
    assert len(set(tokens)) > 1400


def test_a_tiny_top_p_is_greedy() -> None:
    logits = torch.tensor([0.1, 0.9]).log()
    assert set(drawn(logits, 50, temperature=2.0, top_p=1e-6)) == {1}


def test_top_k_leaves_the_tail_out_and_top_p_is_within_it() -> None:
    logits = torch.tensor([0.05, 0.4, 0.15, 0.4]).log()
    assert set(drawn(logits, temperature=1.0, top_k=3)) == {1, 2, 3}
    assert set(drawn(logits, temperature=1.0, top_k=1)) <= {1, 3}
    assert set(drawn(logits, temperature=1.0, top_k=9)) == {0, 1, 2, 3}
    # Of the three, each of the two likeliest has 0.42, so 0.85 needs the third; of all four it would not.
    assert set(drawn(logits, temperature=1.0, top_k=3, top_p=0.85)) == {1, 2, 3}
    assert set(drawn(logits, temperature=1.0, top_p=0.75)) == {1, 3}


@pytest.mark.parametrize("temperature", [1e-45, 1e-5, 2.0])
def test_extreme_temperatures_and_logits_still_choose(temperature: float) -> None:
    logits = torch.tensor([-3e38, 3e38, float("-inf"), 1.0])
    assert set(drawn(logits, 20, temperature=temperature, top_p=0.5)) == {1}
    everywhere = torch.full((4,), float("nan"))
    assert set(drawn(everywhere, 20, temperature=temperature)) <= {0, 1, 2, 3}


def test_seeds_repeat_and_choices_differ() -> None:
    sampling, logits = Sampling(1, temperature=1.0, seed=7), torch.zeros(1000)
    once, again, other = Chooser(sampling), Chooser(sampling), Chooser(sampling, 1)
    first = [once(logits) for _ in range(5)]
    assert first == [again(logits) for _ in range(5)]
    assert first != [other(logits) for _ in range(5)]


def test_greedy_and_random_rows_mix_in_a_batch() -> None:
    logits = torch.tensor([[0.0, 9.0], [0.0, 9.0]])
    choosers = [Chooser(Sampling(1)), Chooser(Sampling(1, temperature=0.1, seed=0))]
    assert [choice.token for choice in choose(logits, choosers)] == [1, 1]


GRAMMARS = Grammars(tiny_tokenizer(), [2])
SCHEMA = json.dumps({"type": "array", "items": {"type": "boolean"}})
samplings = st.builds(
    Sampling,
    max_tokens=st.just(9),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    top_p=st.sampled_from([0.3, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 999]),
    seed=st.integers(-5, 5),
    logprobs=st.none() | st.integers(0, 20),
    schema=st.sampled_from([None, SCHEMA]),
)


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(samplings, min_size=1, max_size=6),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_row_never_depends_on_its_neighbours(asked: list[Sampling], seed: int, dtype: torch.dtype) -> None:
    """bfloat16 has many equals among 320 logits, whose order must not depend on the batch either."""
    randomness = torch.Generator().manual_seed(seed)
    steps = [torch.randn(len(asked), 320, generator=randomness).to(dtype) for _ in range(3)]

    def choosers() -> list[Chooser]:
        return [
            Chooser(sampling, n, GRAMMARS.constraint(sampling.schema) if sampling.schema else None)
            for n, sampling in enumerate(asked)
        ]

    together, alone = choosers(), choosers()
    for logits in steps:
        choices = choose(logits, together)
        assert choices == [chooser(row) for chooser, row in zip(alone, logits, strict=True)]
        for choice, sampling in zip(choices, asked, strict=True):
            assert (choice.logprob is None) == (sampling.logprobs is None)
            assert len(choice.top) == (sampling.logprobs or 0)


def test_log_probabilities_are_the_models_own() -> None:
    """Not those of temperature, top-p, top-k or schema, which only say what may be chosen."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for options in ({}, {"temperature": 2.0, "top_p": 0.6, "seed": 1}, {"temperature": 0.3, "top_k": 1}):
        choice = Chooser(Sampling(1, logprobs=3, **options))(logits)  # type: ignore[arg-type]
        assert choice.logprob == pytest.approx(math.log([0.5, 0.3, 0.15, 0.05][choice.token]))
        assert [token for token, _ in choice.top] == [0, 1, 2]
        assert [logprob for _, logprob in choice.top] == pytest.approx([math.log(p) for p in (0.5, 0.3, 0.15)])
    held = Chooser(Sampling(1, logprobs=1, schema=SCHEMA), constraint=GRAMMARS.constraint(SCHEMA))
    row = torch.zeros(320).index_fill(0, torch.tensor([7]), 5.0)
    choice = held(row)
    assert GRAMMARS.spell(choice.token) == b"["
    assert choice.logprob == pytest.approx(float(row.log_softmax(0)[choice.token]))
    assert choice.top == ((7, pytest.approx(float(row.log_softmax(0)[7]))),)


def test_log_probabilities_are_computed_in_float32() -> None:
    logits = torch.randn(320, generator=torch.Generator().manual_seed(0)).bfloat16()
    choice = Chooser(Sampling(1, logprobs=0))(logits)
    assert choice.logprob == pytest.approx(float(logits.double().log_softmax(0).max()), abs=1e-5)
    assert choice.told[0].top == ()


def test_log_probabilities_are_always_numbers_of_json() -> None:
    broken = torch.tensor([[0.0, float("-inf"), -1e30], [float("nan"), 0.0, 0.0]])
    known = likelihoods(broken, [1, 0], [3, 3])
    numbers = [told.logprob for told in known] + [logprob for told in known for _, logprob in told.top]
    assert min(numbers) == LEAST_LOGPROB
    json.dumps(numbers, allow_nan=False)


def test_an_answer_without_log_probabilities_tells_none() -> None:
    assert Chooser(Sampling(1))(torch.zeros(3)).told == ()


def test_a_schema_that_leads_nowhere_ends_its_own_row_only() -> None:
    hopeless = json.dumps(
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/a"}},
            "required": ["a"],
            "$defs": {"a": {"$ref": "#/$defs/a"}},
        }
    )
    bad = Chooser(Sampling(9, schema=hopeless), constraint=GRAMMARS.constraint(hopeless))
    good = Chooser(Sampling(9))
    for _ in range(20):
        first, second = choose(torch.zeros(2, 320), [bad, good])
        assert second == Choice(0)
        if first.error:
            break
    assert first.error and first.error.where == "response_format"
    assert first.token == 2
    assert not bad.ended
