"""The real packs: pulled into the machine's own cache, converted, loaded, used."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from modalities import catalogue
from modalities.embedding import embed
from modalities.text.model import TextBase, load_base
from modalities.text.template import answer_text, encode_row, render

pytestmark = pytest.mark.slow
TEXT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"


def pulled(base_id: str) -> dict[str, Any]:
    call = [sys.executable, "-m", "modalities.pull", "pull", base_id, "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def base() -> TextBase:
    assert pulled(TEXT)["digest"] == catalogue.base_digest(TEXT)
    return load_base(TEXT, "fp32")


def test_smollm2_answers(base: TextBase) -> None:
    prompt = render(base.tokenizer, [{"role": "user", "content": "What is the capital of France?"}], True)
    ids = torch.tensor([prompt], device=base.device)
    out = base.model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=base.tokenizer.pad_token_id)
    answer = out[0, len(prompt) :].tolist()
    assert answer[-1] in base.stop_ids
    assert answer_text(base.tokenizer, answer) == "The capital of France is Paris."


def test_smollm2_has_its_own_template_and_stop(base: TextBase) -> None:
    tokenizer = base.tokenizer
    assert base.stop_ids == (2,) == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert tokenizer.pad_token_id == 0 and tokenizer.model_max_length == base.config.context == 8192
    default = tokenizer.decode(render(tokenizer, [{"role": "user", "content": "hi"}], True))
    assert default.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    messages = [
        {"role": "system", "content": "Name the category of the message."},
        {"role": "user", "content": "Where is my card?"},
        {"role": "assistant", "content": "card_arrival"},
    ]
    row = encode_row(tokenizer, messages, base.stop_ids)
    trained = [token for token, on in zip(row.ids, row.trained, strict=True) if on]
    assert tokenizer.decode(trained) == "card_arrival<|im_end|>"
    assert "SmolLM" not in tokenizer.decode(row.ids)
    assert render(tokenizer, messages[:2], True)[-4:] == [1, 520, 9531, 198]


def test_smollm2_splits_digits_as_it_was_trained(base: TextBase) -> None:
    def tokens(text: str) -> list[str]:
        return list(base.tokenizer.tokenize(text))

    assert tokens("2024") == ["2", "0", "2", "4"]
    assert tokens("a  42") == ["a", "ĠĠ", "4", "2"]
    assert tokens("\n\n1") == ["ĊĊ", "1"]


def test_smollm2_has_the_size_the_catalogue_says(base: TextBase) -> None:
    assert sum(weight.numel() for weight in base.model.parameters()) == catalogue.get(TEXT).parameters
    assert base.config.layers == 30 and base.first_layer_default == 20


def test_minilm_puts_like_sentences_together() -> None:
    pulled(EMBEDDING)
    vectors = embed(["Where is my card?", "My card has not arrived.", "Bananas are yellow."])
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.6 > 0.2 > alike[0, 2]
    assert embed([]).shape == (0, 384)
