"""Learning by rewards and reward models, through the training job's public face and against TRL's losses."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from moatelier.contracts import RewardSpec, TrainResult
from moatelier.errors import Cancelled, DataError, IntegrityError, InvalidRequest
from moatelier.job import Job
from modalities.bundle import bundle_folder
from serving.engine import Sampling, TextEngine
from tests.training.models import stir
from tests.training.preferences import card_of, pair_rows
from tests.training.rows import rows, spec
from tests.training.test_run import StopAt
from training import reinforce
from training.batches import Example
from training.methods import grpo, lora, rloo
from training.reinforce import ReinforceObjective
from training.reward_model import SCORE, RewardModel
from training.run import work

SHORT = RewardSpec(kind="regex", pattern=r"[a-z ]*")
"""A format that the tiny base meets by chance."""


def train(home: Path, fields: dict[str, Any], name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(fields, Job(home / "jobs" / name, quiet=True)))


def told(home: Path, name: str = "job") -> list[dict[str, Any]]:
    lines = (home / "jobs" / name / "events.jsonl").read_text().splitlines()
    return [event["body"] for event in map(json.loads, lines) if event["kind"] == "progress"]


def prompts(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{**row, "messages": row["messages"][:-1], "label": None} for row in rows(count, start)]


def learning(card: str, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"method": "grpo", "rank": 16, "alpha": 64.0, "new_tokens": 4, "batch_rows": 4, "group": 8}
    return spec(card, **fields | {"rewards": (SHORT,)} | changes).model_dump()


@pytest.fixture
def objective(home: Path, tiny: str) -> ReinforceObjective:
    made = spec("0" * 64, method="grpo", rewards=(SHORT,), new_tokens=4, beta=0.1, group=4)
    return reinforce.prepare(made, None, {"train": prompts(6), "dev": []}, Job(home / "made", quiet=True))


# --------------------------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize("method", [grpo, rloo])
def test_equal_rewards_give_zero_advantage(method: Any) -> None:
    rewards = torch.tensor([[0.7] * 4, [0.0, 1.0, 1.0, 0.0]])
    gains = method.advantages(rewards)
    assert torch.equal(gains[0], torch.zeros(4)) or gains[0].abs().max() < 1e-6
    assert (gains[1] > 0).tolist() == [False, True, True, False] and abs(float(gains[1].sum())) < 1e-6


def test_advantages_are_those_of_the_papers() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert grpo.advantages(rewards)[0].tolist() == pytest.approx([0.75 / 0.5001] + [-0.25 / 0.5001] * 3)
    assert rloo.advantages(rewards)[0].tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_where_all_earn_the_same_nothing_is_learnt(home: Path, tiny: str, method: str) -> None:
    always = RewardSpec(kind="regex", pattern=".*")
    card = card_of("prompts", prompts(8), [])
    result = train(home, learning(card, method=method, beta=0.0, epochs=1.0, rewards=(always,)))
    assert [loss for _, loss in result.curve] == [0.0, 0.0]
    assert all(step["reward"] == 1.0 and step["reward_spread"] == 0.0 for step in told(home))


# ------------------------------------------------------------------------------------------------------ a format


@pytest.mark.parametrize(("method", "beta"), [("grpo", None), pytest.param("rloo", 0.0, marks=pytest.mark.slow)])
def test_a_toy_format_is_learnt(home: Path, tiny: str, method: str, beta: float | None) -> None:
    card = card_of("prompts", prompts(24), prompts(8, start=50))
    result = train(home, learning(card, method=method, beta=beta, epochs=6.0, learning_rate=0.02))
    steps = told(home)
    assert steps[0]["reward"] < 0.5
    assert result.dev_loss is not None and result.dev_loss <= 0.1  # at least 90 % of held-out greedy answers
    engine = TextEngine("tiny", precision="fp32")
    engine.load_adapter("tuned", bundle_folder(result.bundle))
    held = [row["messages"] for row in prompts(20, start=100)]
    answers = engine.generate(held, adapter="tuned", sampling=Sampling(4))
    assert sum(set(one.text.strip()) <= set("abcdefghijklmnopqrstuvwxyz ") for one in answers) >= 18


def test_a_plain_row_is_asked_without_its_answer(home: Path, tiny: str) -> None:
    [row] = rows(1)
    told_of = reinforce.asked_of(row)
    assert told_of["truth"] == row["label"] and told_of["messages"] == row["messages"][:-1]
    card = card_of("classification", rows(8), [])
    train(home, learning(card, epochs=1.0, rewards=(RewardSpec(kind="exact_match"),)))
    assert told(home)[0].keys() >= {"reward", "reward_spread", "answer_tokens"}


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_a_stopped_training_goes_on_to_the_same_bits(home: Path, tiny: str, dropout: float) -> None:
    card = card_of("prompts", prompts(12), prompts(4, start=50))
    fields = learning(card, epochs=2.0, learning_rate=0.02, dropout=dropout, beta=0.1, temperature=1.2)
    undisturbed = train(home, fields, "undisturbed")
    for step in (2, 3):
        with pytest.raises(Cancelled):
            work(fields, StopAt(home / "jobs" / "job", "progress", step))
    resumed = train(home, fields)
    assert (resumed.curve, resumed.dev_curve) == (undisturbed.curve, undisturbed.dev_curve)
    assert resumed.bundle == undisturbed.bundle
    assert [step["reward"] for step in told(home)] == [step["reward"] for step in told(home, "undisturbed")]


# -------------------------------------------------------------------------------------------- the live adapter


def test_answers_are_the_adapters_in_training(objective: ReinforceObjective) -> None:
    objective.model.eval()
    objective.begin(0, range(6))
    before = [one.ids for held in objective._step.answers.values() for one in held]
    with torch.no_grad():
        for name, parameter in objective.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    objective.begin(0, range(6))
    after = [held for held in objective._step.answers.values()]
    assert [one.ids for held in after for one in held] != before
    for [one] in after:  # greedy: the likeliest by the model that is trained
        start = one.targets[0]
        for place in one.targets:
            logits = objective.model(torch.tensor([one.ids[:place]])).logits[0, -1]
            assert int(logits.argmax()) == one.ids[place], (start, place)


def test_a_stop_token_is_part_of_what_is_learnt(objective: ReinforceObjective) -> None:
    objective.model.train()
    objective.begin(0, range(6))
    stop = objective._tuned.base.stop_ids
    for row, held in objective._step.answers.items():
        for one in held:
            answer = one.ids[len(objective._prompts[row]) :]
            assert 1 <= len(answer) <= 4 and not set(answer[:-1]) & set(stop)
            assert one.trained == (False,) * len(objective._prompts[row]) + (True,) * len(answer)


def test_the_silenced_model_is_the_base(objective: ReinforceObjective) -> None:
    ids = torch.tensor([objective._prompts[0]])
    with torch.no_grad():
        before = objective.model(ids).logits
        stir(objective.model)
        stirred = objective.model(ids).logits
        with lora.silenced(objective.model):
            assert torch.equal(objective.model(ids).logits, before)
        assert torch.equal(objective.model(ids).logits, stirred) and not torch.equal(stirred, before)


@pytest.mark.parametrize(
    ("method", "beta", "temperature"), [("grpo", 0.2, 1.0), ("grpo", 0.0, 0.7), ("rloo", 0.0, 1.0)]
)
def test_loss_and_gradients_are_trls(home: Path, tiny: str, method: str, beta: float, temperature: float) -> None:
    fields = {"rewards": (SHORT,), "new_tokens": 4, "group": 4, "dropout": 0.1}  # dropout: PEFT's own product
    told = spec("0" * 64, method=method, beta=beta, temperature=temperature, **fields)
    made = reinforce.prepare(told, None, {"train": prompts(3), "dev": []}, Job(home / "made", quiet=True))
    made.model.train()
    stir(made.model)
    made.begin(0, range(3))
    made._step = replace(made._step, gains={row: torch.tensor([1.0, -0.5, 0.2, -0.7]) for row in range(3)})
    made.model.eval()  # without dropout
    made.model.training = True
    mine = made.loss(range(3)) / 12
    mine.backward()
    gradients = [parameter.grad.clone() for parameter in made._parameters() if parameter.grad is not None]
    made.model.zero_grad()
    trainer, inputs = trls(home, made, beta, temperature)
    theirs = trainer._compute_loss(made.model.eval(), inputs)
    theirs.backward()
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    for own, parameter in zip(gradients, made._parameters(), strict=True):
        torch.testing.assert_close(own, parameter.grad, rtol=1e-3, atol=1e-5)


def trls(home: Path, made: ReinforceObjective, beta: float, temperature: float) -> tuple[Any, dict[str, torch.Tensor]]:
    """TRL's trainer around the same model, and the sampled answers padded as it pads them."""
    import trl  # noqa: PLC0415  (slow to import)
    from datasets import Dataset  # noqa: PLC0415

    grouped = made._method is grpo
    config, kind = (trl.GRPOConfig, trl.GRPOTrainer) if grouped else (trl.RLOOConfig, trl.RLOOTrainer)
    arguments = config(
        output_dir=str(home / "trl"),
        beta=beta,
        temperature=temperature,
        report_to=[],
        use_cpu=True,
        bf16=False,
        num_generations=4,
        per_device_train_batch_size=12,
        gradient_checkpointing=False,
        **({"loss_type": "grpo"} if grouped else {}),
    )
    trainer = kind(
        model=made.model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 12),
        processing_class=made._tuned.base.tokenizer,
    )
    examples = [one for held in made._step.answers.values() for one in held]
    prompts, answers = ([list(part(one)) for one in examples] for part in (asked, answered))
    wide, long = max(map(len, prompts)), max(map(len, answers))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (wide - len(one)) + one for one in prompts]),
        "prompt_mask": torch.tensor([[0] * (wide - len(one)) + [1] * len(one) for one in prompts]),
        "completion_ids": torch.tensor([one + [0] * (long - len(one)) for one in answers]),
        "completion_mask": torch.tensor([[1] * len(one) + [0] * (long - len(one)) for one in answers]),
        "advantages": torch.cat(list(made._step.gains.values())),
        "num_items_in_batch": torch.tensor(sum(map(len, answers))),
    }
    if made._step.reference:
        reference = [one for held in made._step.reference.values() for one in held]
        inputs["ref_per_token_logps"] = torch.stack([pad(one, (0, long - len(one))) for one in reference])
    if not grouped:
        with torch.no_grad():
            inputs["old_logps"] = made._tuned.logprobs(range(12), examples)
    return trainer, inputs


def asked(one: Example) -> tuple[int, ...]:
    return one.ids[: one.targets[0]]


def answered(one: Example) -> tuple[int, ...]:
    return one.ids[one.targets[0] :]


# ------------------------------------------------------------------------------------------------- reward model


@pytest.fixture
def reward_model(home: Path, tiny: str) -> TrainResult:
    card = card_of("preference", pair_rows(40), pair_rows(20, start=40))
    fields = spec(card, method="reward_model", rank=16, alpha=64.0, learning_rate=0.01, epochs=6.0)
    return train(home, fields.model_dump(), "reward")


def test_a_reward_model_tells_held_out_pairs_apart(home: Path, reward_model: TrainResult) -> None:
    assert reward_model.curve[0][1] == pytest.approx(math.log(2), abs=1e-6)
    model = RewardModel(reward_model.bundle, Job(home / "asking", quiet=True))
    made = pair_rows(40, start=200)
    asked = [row["messages"][:-1] for row in made]
    chosen = model.score(asked, [row["messages"][-1]["content"] for row in made])
    rejected = model.score(asked, [row["rejected"] for row in made])
    assert sum(good > bad for good, bad in zip(chosen, rejected, strict=True)) >= 34
    assert (bundle_folder(reward_model.bundle) / SCORE).is_file()


def test_a_reward_model_is_a_reward_by_its_digest(home: Path, reward_model: TrainResult) -> None:
    card = card_of("prompts", prompts(8), [])
    reward = RewardSpec(kind="reward_model", bundle=reward_model.bundle)
    train(home, learning(card, epochs=1.0, rewards=(reward,)))
    assert all(0 < step["reward"] < 1 for step in told(home))


def test_a_reward_model_resumes_to_the_same_bits(home: Path, tiny: str) -> None:
    fields = spec(card_of("preference", pair_rows(14), []), method="reward_model", batch_rows=4).model_dump()
    undisturbed = train(home, fields, "undisturbed")
    with pytest.raises(Cancelled):
        work(fields, StopAt(home / "jobs" / "job", "progress", 5))
    assert train(home, fields).bundle == undisturbed.bundle


# ---------------------------------------------------------------------------------------------------- bad input


def test_an_adapter_is_no_reward_model(home: Path, tiny: str) -> None:
    result = train(home, spec(card_of("preference", pair_rows(6), []), method="dpo", epochs=1.0).model_dump())
    with pytest.raises(IntegrityError, match="no reward model"):
        RewardModel(result.bundle, Job(home / "asking", quiet=True))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"rewards": ()}, InvalidRequest, "Nothing is rewarded"),
        ({"new_tokens": 500}, DataError, "512 fit"),
        ({"rewards": (RewardSpec(kind="unit_test"),)}, DataError, "no tests"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    home: Path, tiny: str, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        train(home, learning(card_of("prompts", prompts(4), []), **change))
