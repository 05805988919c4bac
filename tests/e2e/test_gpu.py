"""What a GPU must give: the same training and the same answers, on a CUDA device."""

from pathlib import Path

import pytest
import torch

from moatelier.contracts import TrainResult
from moatelier.job import Job
from modalities.bundle import bundle_folder
from serving.engine import Sampling, TextEngine
from tests.training.rows import dataset, rows, spec
from training.run import work

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]
PROMPTS = [[{"role": "user", "content": text}] for text in ("where is my parcel", "it arrived broken", "refund please")]


def test_an_adapter_trained_on_the_gpu_learns_and_answers_there(home: Path, tiny: str) -> None:
    card = dataset(rows(30), rows(9, start=30))
    told = spec(card, epochs=8.0, learning_rate=0.02, rank=16).model_dump()
    result = TrainResult.model_validate(work(told, Job(home / "jobs" / "job", quiet=True)))
    assert result.train_loss < 0.97 * result.curve[0][1] and result.peak_bytes > 0
    engine = TextEngine(tiny, "fp32")
    assert engine.device.type == "cuda"
    engine.load_adapter("support", bundle_folder(result.bundle))
    sampling = Sampling(max_tokens=6)
    together = engine.generate(PROMPTS, adapter="support", sampling=sampling)
    alone = [engine.generate([prompt], adapter="support", sampling=sampling)[0] for prompt in PROMPTS]
    assert [one.ids for one in together] == [one.ids for one in alone]
