"""Activated LoRA: it acts on the answer only, in training as in PEFT and in the engine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from moatelier.contracts import TrainResult
from moatelier.errors import DataError
from moatelier.job import Job
from modalities import catalogue
from modalities.bundle import bundle_folder
from modalities.text.model import load_base
from modalities.text.template import answer_header
from serving.engine import Sampling, TextEngine
from tests.training.models import stir
from tests.training.rows import SYSTEM, dataset, rows, spec
from training.inputs import Source
from training.methods import alora
from training.run import work
from training.text import encode


def conversation(*turns: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * (len(turns) // 2)
    said = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
    return {"row": 1, "messages": [{"role": "system", "content": SYSTEM}, *said]}


def test_only_the_last_answer_is_trained_and_acted_on(tiny: str) -> None:
    base = load_base("tiny", "fp32")
    header = answer_header(base.tokenizer)
    [example] = encode(base, "train", [conversation("where is it", "parcel", "and my card", "lost")], header)
    [plain] = encode(base, "train", [conversation("where is it", "parcel", "and my card", "lost")])
    answer = example.targets[0]
    assert list(example.ids[example.acts : answer]) == header
    assert base.tokenizer.decode(example.ids[answer:]).startswith("lost<|im_end|>")
    assert example.targets == [place for place in plain.targets if place >= answer]
    assert len(plain.targets) > len(example.targets)
    with pytest.raises(DataError, match="header"):
        encode(base, "train", [conversation("where is it", "parcel")], [7, 7])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("first_layer", [0, 4])
def test_packed_losses_are_those_of_peft(tiny: str, tmp_path: Path, cache: bool, first_layer: int) -> None:
    """An independent reference: PEFT's own activated LoRA, row by row."""
    base = load_base("tiny", "fp32")
    header = answer_header(base.tokenizer)
    examples = encode(base, "train", rows(6), header)
    source = Source(base, examples, first_layer, "fp32", cache=cache)
    adapted = alora.attach(base.model, spec("0" * 64, method="alora"), first_layer)
    alora.activate_by(adapted, header)
    stir(adapted)
    inputs = source.inputs([3, 0, 5, 1])
    with torch.no_grad():
        logits = base.model.get_output_embeddings()(source.tuned(inputs))
        packed = cross_entropy(logits, inputs.targets, reduction="none")
    adapted.save_pretrained(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(catalogue.folder(tiny), dtype=torch.float32)
    theirs, alone = PeftModel.from_pretrained(fresh, tmp_path).eval(), []
    for row in (3, 0, 5, 1):
        ids, places = torch.tensor([examples[row].ids]), torch.tensor(examples[row].targets)
        with torch.no_grad():
            after = theirs(input_ids=ids).logits[0][places - 1]
        alone.append(cross_entropy(after, ids[0, places], reduction="none"))
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        everywhere = cross_entropy(
            base.model.get_output_embeddings()(source.tuned(replace(inputs, acting=None))),
            inputs.targets,
            reduction="none",
        )
    assert not torch.allclose(everywhere, packed, rtol=1e-3), "it acted on the prompt too"
    source.close()


def test_it_is_trained_sealed_and_served(home: Path, tiny: str) -> None:
    card = dataset(rows(30), rows(9, start=30))
    told = spec(card, method="alora", epochs=8.0, learning_rate=0.02, rank=16, dropout=0.1).model_dump()
    result = TrainResult.model_validate(work(told, Job(home / "jobs" / "job", quiet=True)))
    assert result.train_loss < 0.97 * result.curve[0][1]
    engine = TextEngine(tiny, "fp32")
    engine.load_adapter("support", bundle_folder(result.bundle))
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "where is my parcel " * 9}]
    engine.generate([turns], adapter=None, sampling=Sampling(1))
    work_before = engine.passes.prompt_work
    engine.generate([turns], adapter="support", sampling=Sampling(1))
    assert engine.passes.prompt_work - work_before < 32 * 6, "the prompt was not the base's"
