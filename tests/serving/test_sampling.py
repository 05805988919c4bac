import pytest
import torch

from moatelier.errors import InvalidRequest
from serving.sampling import Chooser, Sampling, choose


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 2.5),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Sampling(**({"max_tokens": 5} | {field: value}))  # type: ignore[arg-type]  # wrong on purpose
    assert refused.value.where == field


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    assert choose(logits, [Chooser(Sampling(1)), Chooser(Sampling(1))]) == [1, 0]


def test_sampling_follows_the_distribution() -> None:
    chances = torch.tensor([0.5, 0.3, 0.2])
    chooser = Chooser(Sampling(1, temperature=1.0, seed=1))
    drawn = torch.tensor([chooser(chances.log()) for _ in range(4000)])
    assert torch.allclose(torch.bincount(drawn, minlength=3) / 4000, chances, atol=0.03)


def test_top_p_leaves_the_tail_out() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    drawn = {Chooser(Sampling(1, temperature=1.0, top_p=0.6, seed=seed))(logits) for seed in range(200)}
    assert drawn == {0, 1}


def test_a_tiny_top_p_is_greedy() -> None:
    logits = torch.tensor([0.1, 0.9]).log()
    assert {Chooser(Sampling(1, temperature=2.0, top_p=1e-6, seed=seed))(logits) for seed in range(50)} == {1}


def test_seeds_repeat_and_choices_differ() -> None:
    sampling, logits = Sampling(1, temperature=1.0, seed=7), torch.zeros(1000)
    once, again, other = Chooser(sampling), Chooser(sampling), Chooser(sampling, 1)
    first = [once(logits) for _ in range(5)]
    assert first == [again(logits) for _ in range(5)]
    assert first != [other(logits) for _ in range(5)]


def test_greedy_and_random_rows_mix_in_a_batch() -> None:
    logits = torch.tensor([[0.0, 9.0], [0.0, 9.0]])
    assert choose(logits, [Chooser(Sampling(1)), Chooser(Sampling(1, temperature=0.1, seed=0))]) == [1, 1]
