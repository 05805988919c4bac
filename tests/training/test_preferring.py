"""Learning from preferences through the training job's public face, and against TRL's trainers on the same inputs."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import pad

from moatelier.contracts import TrainResult
from moatelier.errors import Cancelled, DataError
from moatelier.job import Job
from modalities.bundle import WEIGHTS, bundle_folder, open_bundle
from modalities.text.model import TextBase, load_base
from store import artifacts
from tests.training.models import stir
from tests.training.preferences import card_of, pair_rows, thumb_rows
from tests.training.rows import dataset, spec
from tests.training.test_run import StopAt
from training import preferring
from training.batches import Example
from training.methods import kto, orpo
from training.preferring import PreferenceObjective
from training.run import work
from training.text import prepare as prepare_plain

Made = Callable[..., PreferenceObjective]


def train(home: Path, fields: dict[str, Any], name: str = "job") -> TrainResult:
    return TrainResult.model_validate(work(fields, Job(home / "jobs" / name, quiet=True)))


@pytest.fixture
def objective(tiny: str, home: Path) -> Iterator[Made]:
    """Made as the job makes them, in evaluation mode; closed in the end."""
    opened = []

    def made(rows: list[dict[str, Any]], method: str, **changes: Any) -> PreferenceObjective:
        told = spec("0" * 64, method=method, **changes)
        opened.append(preferring.prepare(told, None, {"train": rows, "dev": []}, Job(home / "made", quiet=True)))
        opened[-1].model.eval()
        return opened[-1]

    yield made
    for each in opened:
        each.close()


LEARN: dict[str, Any] = {"rank": 16, "alpha": 64.0, "learning_rate": 0.01, "epochs": 12.0}
"""With which the tiny base learns in seconds."""


def held_out(objective: Made, bundle: str) -> torch.Tensor:
    """By how much a sealed adapter prefers the chosen answers of pairs that nobody trained on more than the base."""
    made = objective(pair_rows(20, start=100), "dpo", rank=16, alpha=64.0)
    made.restore(load_file(bundle_folder(bundle) / WEIGHTS))
    return made.margins(range(20))


def preferred(margins: torch.Tensor) -> float:
    return float((margins > 0).float().mean())


def batch(base: TextBase, examples: list[Example]) -> dict[str, torch.Tensor]:
    """Padded as TRL's collators do."""
    width = max(len(example.ids) for example in examples)

    def padded(values: list[list[int]], fill: int) -> torch.Tensor:
        return torch.stack([pad(torch.tensor(row), (0, width - len(row)), value=fill) for row in values])

    return {
        "input_ids": padded([list(one.ids) for one in examples], base.tokenizer.pad_token_id),
        "attention_mask": padded([[1] * len(one.ids) for one in examples], 0),
        "completion_mask": padded([list(map(int, one.trained)) for one in examples], 0),
    }


@pytest.fixture
def pairs_card(tiny: str) -> str:
    return card_of("preference", pair_rows(30), pair_rows(9, start=30))


# ------------------------------------------------------------------------------------------------------------- DPO


def test_the_first_loss_of_dpo_is_ln_2_and_held_out_margins_grow(objective: Made, home: Path, pairs_card: str) -> None:
    result = train(home, spec(pairs_card, method="dpo", beta=0.5, **LEARN).model_dump())
    assert result.curve[0][1] == pytest.approx(math.log(2), abs=1e-5)
    assert result.dev_loss is not None and result.dev_loss < 0.5
    margins = held_out(objective, result.bundle)
    assert float(margins.mean()) > 0 and preferred(margins) >= 0.8
    base = load_base("tiny", "fp32")
    folder = bundle_folder(result.bundle)
    manifest = open_bundle(folder, base_digest=base.digest, template_digest=base.template_digest)
    assert (manifest.kind, manifest.first_layer, manifest.system) == (
        "preference",
        4,
        "Name the category of the message.",
    )


def test_held_out_margins_are_what_the_tuned_model_says(objective: Made, home: Path) -> None:
    made = objective(pair_rows(12), "dpo")
    assert torch.equal(made.margins(range(12)), torch.zeros(12))
    stir(made.model)
    told = made.margins(range(12))
    losses = torch.stack([made.loss([row]) for row in range(12)])
    torch.testing.assert_close(losses, -torch.nn.functional.logsigmoid(0.1 * told), rtol=1e-5, atol=1e-6)


def test_the_reference_is_asked_once_and_kept_for_the_next_trial(
    home: Path, pairs_card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(home, spec(pairs_card, method="dpo").model_dump(), "a")
    asked: list[int] = []
    logprobs = preferring.Tuned.logprobs

    def counted(self: Any, rows: Any, *more: Any) -> torch.Tensor:
        asked.append(hasattr(self, "model"))
        return logprobs(self, rows, *more)

    monkeypatch.setattr(preferring.Tuned, "logprobs", counted)
    again = train(home, spec(pairs_card, method="dpo").model_dump(), "b")
    assert again.bundle == first.bundle and again.curve == first.curve
    assert asked and all(asked)  # never before the adapter was there


def test_dpo_is_trls(objective: Made, home: Path) -> None:
    from datasets import Dataset  # noqa: PLC0415  (slow to import)
    from trl import DPOConfig, DPOTrainer  # noqa: PLC0415

    made = objective(pair_rows(6), "dpo", beta=0.3, dropout=0.1)  # with PEFT's own product, that can be disabled
    stir(made.model)
    mine = made.loss(range(6)).detach() / 6
    base, examples = made._tuned.base, made._tuned.examples
    told = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    arguments = DPOConfig(output_dir=str(home / "trl"), beta=0.3, report_to=[], use_cpu=True, bf16=False)
    arguments.gradient_checkpointing = False
    trainer = DPOTrainer(model=made.model, args=arguments, train_dataset=told, processing_class=base.tokenizer)
    inputs = batch(base, [*examples[0::2], *examples[1::2]])
    if "ref" in trainer.model.peft_config:  # a copy of the adapter: it takes this for a second training
        trainer.model.delete_adapter("ref")
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model.eval(), inputs)
    assert float(mine) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("method", "kind"), [("dpo", "preference"), ("kto", "thumbs")])
def test_a_stopped_training_goes_on_to_the_same_bits(
    home: Path, tiny: str, method: str, kind: str, dropout: float
) -> None:
    made = pair_rows(20) if kind == "preference" else thumb_rows(20, 5)
    fields = spec(card_of(kind, made[:14], made[14:]), method=method, dropout=dropout, batch_rows=4).model_dump()
    undisturbed = train(home, fields, "undisturbed")
    for step in (1, 4, 6):
        with pytest.raises(Cancelled):
            work(fields, StopAt(home / "jobs" / "job", "progress", step))
    resumed = train(home, fields)
    assert (resumed.curve, resumed.dev_curve) == (undisturbed.curve, undisturbed.dev_curve)
    assert resumed.bundle == undisturbed.bundle


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_micro_batches_change_nothing(objective: Made, home: Path, method: str) -> None:
    made = objective(thumb_rows(8, 5) if method == "kto" else pair_rows(8), method)
    stir(made.model)
    if method == "kto":
        made.begin(0, range(8))
    whole, parts = made.loss(range(8)), sum(made.loss([row]) for row in range(8))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ ORPO


def test_orpo_without_its_term_is_plain_tuning_and_keeps_no_reference(objective: Made, home: Path) -> None:
    made = pair_rows(30)
    plain = train(home, spec(dataset(made, [])).model_dump(), "plain")
    odd = train(home, spec(card_of("preference", made, []), method="orpo", beta=0.0).model_dump(), "orpo")
    one = objective(made, "orpo", beta=0.0)
    other = prepare_plain(spec("0" * 64), None, {"train": made, "dev": []}, Job(home / "plain", quiet=True))
    expected = other.loss(range(6))
    other.close()
    torch.testing.assert_close(one.loss(range(6)), expected, rtol=1e-5, atol=1e-4)
    assert one.units == other.units
    other.close()
    assert odd.curve[0][1] == pytest.approx(plain.curve[0][1], rel=1e-2)  # batches differ: pairs are longer
    assert one._tuned.reference is None
    assert not [held for held in vars(one).values() if isinstance(held, torch.nn.Module) and held is not one.model]


def test_the_odds_term_is_trls(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOTrainer  # noqa: PLC0415

    chosen, rejected = -torch.rand(5) * 3, -torch.rand(5) * 3

    class Standing:
        beta = 1.0
        accelerator = type("A", (), {"device": "cpu"})

    theirs = ORPOTrainer.odds_ratio_loss(Standing(), chosen, rejected)[0]
    torch.testing.assert_close(orpo.odds(torch.stack([chosen, rejected], 1)), theirs, rtol=1e-5, atol=1e-5)


def test_orpo_learns_to_prefer(objective: Made, home: Path, pairs_card: str) -> None:
    result = train(home, spec(pairs_card, method="orpo", beta=1.0, **LEARN).model_dump())
    assert result.dev_curve[-1][1] < result.dev_curve[0][1]
    assert preferred(held_out(objective, result.bundle)) >= 0.8


# ------------------------------------------------------------------------------------------------------------- KTO


@pytest.mark.parametrize("good_in_ten", [9, 1])
def test_kto_learns_from_nine_to_one(objective: Made, home: Path, tiny: str, good_in_ten: int) -> None:
    card = card_of("thumbs", thumb_rows(40, good_in_ten), [])
    result = train(home, spec(card, method="kto", beta=0.5, **LEARN).model_dump())
    assert preferred(held_out(objective, result.bundle)) >= 0.8
    told = [json.loads(line) for line in (home / "jobs/job/events.jsonl").read_text().splitlines()]
    assert all(one["body"]["drift"] >= 0 for one in told if one["kind"] == "progress")


def test_the_rarer_thumbs_weigh_as_much_in_all(objective: Made, home: Path) -> None:
    made = objective(thumb_rows(20, 9), "kto")
    weights, good = made._weights, made._good
    assert float(weights[good].sum()) == pytest.approx(float(weights[~good].sum()))
    assert float(weights.sum()) == pytest.approx(20)


def test_kto_is_trls(objective: Made, home: Path) -> None:
    from datasets import Dataset  # noqa: PLC0415
    from trl import KTOConfig, KTOTrainer  # noqa: PLC0415

    made = objective(thumb_rows(6, 5), "kto", beta=0.3, dropout=0.1)
    stir(made.model)
    made.begin(0, range(6))
    tuned = made._tuned
    good = made._good
    ratios = tuned.logprobs(range(0, 12, 2)) - tuned.reference[torch.arange(0, 12, 2)]
    mine = kto.loss(ratios, good, made._drift, 0.3).mean().detach()
    told = Dataset.from_list([{"prompt": "a", "completion": "b", "label": flag} for flag in (True, False)])
    arguments = KTOConfig(output_dir=str(home / "trl"), beta=0.3, report_to=[], use_cpu=True, bf16=False)
    arguments.gradient_checkpointing = False
    trainer = KTOTrainer(model=made.model, args=arguments, train_dataset=told, processing_class=tuned.base.tokenizer)
    inputs = batch(tuned.base, list(tuned.examples[0::2]))
    inputs |= {f"KL_{name}": value for name, value in batch(tuned.base, list(tuned.examples[1::2])).items()}
    if "ref" in trainer.model.peft_config:  # a copy of the adapter: it takes this for a second training
        trainer.model.delete_adapter("ref")
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model.eval(), {**inputs, "label": good})
    assert float(mine) == pytest.approx(float(theirs), abs=1e-5)


# ------------------------------------------------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("method", "change", "text"),
    [
        ("dpo", {"rejected": None}, "no rejected answer"),
        ("orpo", {"rejected": "parcel please"}, "is the chosen one"),
        ("kto", {"good": "yes"}, "whether its answer is good"),
    ],
)
def test_rows_that_are_no_preferences_are_refused_by_row(
    home: Path, tiny: str, method: str, change: dict[str, Any], text: str
) -> None:
    made = thumb_rows(6, 5) if method == "kto" else pair_rows(6)
    made[3] |= change
    card = card_of("preference", made, [])
    assert artifacts.get_json(card)["kind"] == "preference"
    with pytest.raises(DataError, match=text) as caught:
        train(home, spec(card, method=method).model_dump())
    assert "train, row 4" in str(caught.value)
