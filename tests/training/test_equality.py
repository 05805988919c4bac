"""Ways of computing the same thing that must give the same thing: micro-batches, packing, the cache."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from moatelier.contracts import TrainResult
from moatelier.job import Job
from modalities import catalogue
from modalities.bundle import bundle_folder
from serving.engine import TextEngine
from tests.training.models import Tuned, tuned
from tests.training.rows import dataset, rows, spec
from training.loss import frozen_head_loss
from training.run import work
from training.text import TextObjective


def gradients(made: Tuned, pieces: list[list[int]], *, mean_of_means: bool = False) -> list[torch.Tensor]:
    """As the loop accumulates them; or as it must not."""
    for parameter in made.parameters:
        parameter.grad = None
    trained = sum(sum(example.trained) for example in made.examples)
    for piece in pieces:
        inputs = made.source.inputs(piece)
        total = frozen_head_loss(made.source.tuned(inputs), inputs.targets, made.head)
        torch.autograd.backward(total / (len(inputs.targets) * len(pieces) if mean_of_means else trained))
    return [parameter.grad for parameter in made.parameters if parameter.grad is not None]


def test_one_batch_of_eight_equals_eight_of_one(tiny: str) -> None:
    """trl#2175, transformers#34191: gradient accumulation changed the loss."""
    made = tuned(8)
    whole, single = gradients(made, [list(range(8))]), gradients(made, [[row] for row in range(8)])
    assert len(whole) == len(single) == len(made.parameters)
    for at_once, one_by_one in zip(whole, single, strict=True):
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-6)
    # The rows' answers differ in length, so this test can tell: averaging the averages is another gradient.
    wrong = gradients(made, [[row] for row in range(8)], mean_of_means=True)
    assert any(not torch.allclose(right, other, rtol=1e-2) for right, other in zip(whole, wrong, strict=True))
    made.source.close()


def test_a_run_by_rows_learns_what_a_run_by_batches_learns(
    home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trl#2175, transformers#34191: the whole loop, with clipping and the optimiser."""
    fields = spec(dataset(rows(16), rows(4, start=16)), batch_rows=8, learning_rate=1e-3).model_dump()
    curves = []
    for tokens in (1, 10**6):
        monkeypatch.setattr(TextObjective, "micro", tokens)
        result = TrainResult.model_validate(work(fields, Job(home / "jobs" / str(tokens), quiet=True)))
        curves.append([loss for _, loss in (*result.curve, *result.dev_curve)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("first_layer", [0, 4])
def test_packed_equals_unpacked_for_every_trained_token(tiny: str, cache: bool, first_layer: int) -> None:
    """trl#1230, trl#3067: packing leaked between rows. Here with the cache and with an adapter at work."""
    made = tuned(6, cache=cache, first_layer=first_layer)
    assert made.source.prefix > 4 and made.source.cached is (cache and first_layer > 0)
    inputs = made.source.inputs([3, 0, 5, 1])
    with torch.no_grad():
        packed = cross_entropy(made.head(made.source.tuned(inputs)), inputs.targets, reduction="none")
        alone = [losses_alone(made, row) for row in (3, 0, 5, 1)]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)
    made.source.close()


def losses_alone(made: Tuned, row: int) -> torch.Tensor:
    example = made.examples[row]
    logits = made.adapted(input_ids=torch.tensor([example.ids])).logits[0]
    places = torch.tensor(example.targets)
    return cross_entropy(logits[places - 1], torch.tensor(example.ids)[places], reduction="none")


def test_a_sealed_bundle_says_the_same_in_peft_and_in_the_engine(home: Path, tiny: str) -> None:
    """LLaMA-Factory#5232, unsloth#1832: good in the tool, bad after export."""
    result = work(spec(dataset(rows(12), [])).model_dump(), Job(home / "jobs" / "job", quiet=True))
    folder = bundle_folder(result["bundle"])
    fresh = AutoModelForCausalLM.from_pretrained(catalogue.folder(tiny), dtype=torch.float32)
    theirs = PeftModel.from_pretrained(fresh, folder).eval()
    engine = TextEngine(tiny, "fp32")
    engine.load_adapter("ours", folder)
    ids = torch.tensor([[1, 40, 41, 42, 43, 44, 2]])
    ours = engine.logits(ids[0].tolist(), adapter="ours")
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits[0], ours, rtol=1e-4, atol=1e-5)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(ids).logits[0], ours, rtol=1e-3)
