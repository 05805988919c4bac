"""Continued pre-training on plain text: what is trained, how it is packed, what comes of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from evals.loss import perplexity
from moatelier.errors import DataError, InvalidRequest
from moatelier.job import Job
from modalities.bundle import bundle_folder, read_manifest
from modalities.text.documents import blocks, boundary, pieces
from modalities.text.model import load_base
from serving.engine import TextEngine
from store import artifacts, datasets
from tests.training.rows import artifact, dataset, spec
from tests.training.test_run import events, train
from training import plain
from training.run import read_rows

TEXTS = [f"the parcel {'is late ' * (number % 7)}and number {number} <|im_end|> has not come" for number in range(24)]


def documents(texts: list[str], start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"{n:016x}", "row": n + 1, "text": text, "label": None, "group": None}
        for n, text in enumerate(texts, start)
    ]


def pretraining(texts: list[str], dev: list[str]) -> str:
    card = datasets.get_card(dataset(documents(texts), documents(dev, len(texts))))
    return artifacts.put_json(card.model_copy(update={"kind": "pretraining", "labels": ()}))


def objective(home: Path, **changes: Any) -> plain.PlainObjective:
    card = datasets.get_card(pretraining(TEXTS[:18], TEXTS[18:]))
    told = spec(card.digest, **changes)
    rows = {split: read_rows(card, split) for split in ("train", "dev")}
    return plain.prepare(told, card, rows, Job(home / "jobs" / "job", quiet=True))


def test_every_token_is_predicted_exactly_once(tiny: str) -> None:
    tokenizer = load_base("tiny", "fp32").tokenizer
    text = TEXTS[3] * 4
    whole = pieces(tokenizer, text, 10**6)[0]
    assert whole[0] == whole[-1] == boundary(tokenizer)
    assert tokenizer.decode(whole[1:-1]) == text and boundary(tokenizer) not in whole[1:-1]
    for most in (5, 16, len(whole) - 1, len(whole)):
        cut = pieces(tokenizer, text, most)
        assert [token for piece in cut for token in piece[1:]] == whole[1:]
        assert max(map(len, cut)) <= most
        assert all(after[0] == before[-1] for before, after in zip(cut, cut[1:], strict=False))
    with pytest.raises(DataError, match="empty"):
        pieces(tokenizer, " \n", 16)


def test_blocks_hold_every_piece_once_and_no_more_than_fits() -> None:
    sizes = [7, 60, 3, 64, 20, 20, 9, 1]
    made = blocks(sizes, 64)
    assert sorted(piece for block in made for piece in block) == list(range(8))
    assert all(sum(sizes[piece] for piece in block) <= 64 for block in made) and len(made) < 5


def test_nothing_leaks_between_the_documents_of_a_block(home: Path, tiny: str) -> None:
    """trl#1230, trl#3067: each document's loss is what it has alone, by transformers itself."""
    made = objective(home, max_tokens=128)
    model = made.model.get_base_model().eval()
    base = load_base("tiny", "fp32")
    alone = 0.0
    with torch.no_grad():
        for example in plain.encode(base, "train", documents(TEXTS[:18]), 128):
            ids = torch.tensor([example.ids])
            alone += float(cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
        packed = [float(made.loss([block])) for block in range(made.train_rows)]
    assert len(packed) < 18 and sum(packed) == pytest.approx(alone, rel=1e-4)
    assert sum(made.units[: made.train_rows]) == sum(len(pieces(base.tokenizer, t, 128)[0]) - 1 for t in TEXTS[:18])
    made.close()


@pytest.mark.parametrize(
    ("method", "changes"), [("lora", {"learning_rate": 0.02, "rank": 8}), ("full", {"learning_rate": 3e-3})]
)
def test_perplexity_falls_and_is_that_of_the_dev_rows(
    home: Path, tiny: str, method: str, changes: dict[str, Any]
) -> None:
    told = spec(pretraining(TEXTS[:18], TEXTS[18:]), method=method, epochs=6.0, max_tokens=128, batch_rows=2, **changes)
    result = train(home, told.model_dump())
    assert result.tokens > 0 and read_manifest(bundle_folder(result.bundle)).kind == "pretraining"
    assert result.dev_loss is not None and result.dev_loss < 0.97 * result.curve[0][1]
    engine = TextEngine("tiny", "fp32")
    engine.load_adapter("read", bundle_folder(result.bundle))
    after = perplexity(engine, TEXTS[18:], adapter="read")
    assert after == pytest.approx(math.exp(result.dev_loss), rel=1e-3)
    assert after < 0.9 * perplexity(engine, TEXTS[18:], adapter=None)
    shown = events(home, "preflight")[0]["body"]
    assert (shown["rows"], shown["without_training"]) == (18, 0)


def test_what_cannot_be_read_on_is_refused(home: Path, tiny: str) -> None:
    with pytest.raises(InvalidRequest, match="Use lora or full"):
        objective(home, method="alora")
    card = datasets.get_card(pretraining(TEXTS[:2], []))
    splits = card.splits | {"train": card.splits["train"].model_copy(update={"artifact": artifact(documents([""]))})}
    empty = artifacts.put_json(card.model_copy(update={"splits": splits}))
    with pytest.raises(DataError, match="train, row 1: text"):
        train(home, spec(empty).model_dump())
