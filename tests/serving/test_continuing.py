"""A text continued as it stands."""

import pytest
import torch

from moatelier.errors import InvalidRequest
from serving import continuing
from serving.engine import TextEngine
from serving.protocol import ChatRequest
from serving.sampling import Sampling


def test_a_text_is_continued_without_template(engine: TextEngine) -> None:
    text = "where is my parcel"
    (row,) = continuing.submit(engine, [{"content": text}], adapters=[None], sampling=Sampling(max_tokens=5))
    ids = engine.base.tokenizer(text)["input_ids"]
    assert row.lanes[0].ids[: len(ids)] == ids
    assert "im_start" not in engine.base.tokenizer.decode(ids), "and no turn is opened"
    engine.finish([row])
    assert len(row.lanes[0].ids) > len(ids)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("text", ["", "word " * 600, "x" * 1_000_000])
def test_what_cannot_be_continued(engine: TextEngine, text: str) -> None:
    with pytest.raises(InvalidRequest):
        continuing.submit(engine, [{"content": text}], adapters=[None], sampling=Sampling(max_tokens=5))


def test_a_raw_text_is_one_message() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(InvalidRequest, match="one message"):
        ChatRequest(model="tiny", messages=turns, raw=True).check()  # type: ignore[arg-type]
