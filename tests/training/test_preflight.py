"""What is refused before the first step; the docstrings name the public complaints that a test guards against."""

from pathlib import Path
from typing import Any

import pytest

from moatelier.errors import DataError, InvalidRequest
from modalities.text.template import encode_row
from tests.fakes import tiny_tokenizer
from training import preflight
from training.batches import Example

STOP, PAD = (2,), 0


def example(ids: str, trained: str, name: str = "train, row 1") -> Example:
    return Example(name, tuple(map(int, ids.split())), tuple(mark == "x" for mark in trained))


GOOD = example("1 5 6 7 2 9", "..xxx.")


def check(*examples: Example, pad: int | None = PAD, max_tokens: int = 100) -> preflight.Preflight:
    return preflight.check(examples, STOP, pad, max_tokens)


def test_good_rows_are_counted() -> None:
    found = check(GOOD, example("1 5 2", ".xx"))
    assert (found.rows, found.tokens, found.trained, found.longest) == (2, 9, 5, 6)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "no rows"),
        ([example("1 5 6", "...")], "Not a single token would be trained"),
        ([GOOD, example("1 5 6", ".xx", "train, row 2")], "train, row 2"),
        ([example("1 5 6 7 2", ".x.xx")], "never learn to stop"),
        ([example("1 5 6 2", ".xx.")], "never learn to stop"),
        ([GOOD, example(" ".join(["5"] * 101), "." * 99 + "xx", "train, row 7")], "train, row 7"),
    ],
)
def test_silent_failures_are_refused_by_row(rows: list[Example], text: str) -> None:
    """Training on nothing, answers that never stop, silent truncation.

    unsloth#1128, unsloth#2364, unsloth#3041: all labels masked. unsloth#416, trl#1623: the model never stops.
    transformers#30998, unsloth#2904, trl#6025: truncated in silence. LLaMA-Factory#4236, axolotl#879: opaque errors.
    """
    with pytest.raises(DataError) as caught:
        check(*rows)
    assert text in str(caught.value) and caught.value.remedy


def test_lost_trained_tokens_are_counted() -> None:
    """transformers#30998, unsloth#2904, trl#6025."""
    with pytest.raises(DataError, match="101 tokens of at most 99; 2 trained tokens would be lost"):
        check(example(" ".join(["2"] * 101), "." * 99 + "xx"), max_tokens=99)


def test_a_padding_token_that_stops_is_refused() -> None:
    """unsloth#416, trl#1623: with the padding, the stop token is masked as well."""
    with pytest.raises(InvalidRequest, match="padding token 2"):
        check(GOOD, pad=2)
    check(GOOD, pad=None)


def test_rows_that_teach_nothing_are_counted() -> None:
    """unsloth#1128, trl#6025: some rows in silence, too."""
    assert check(GOOD, example("1 5 6", "...")).without_training == 1


def test_the_page_marks_the_answer_and_its_stop_token_and_nothing_else(tmp_path: Path) -> None:
    """unsloth#1128, unsloth#2364: a person can see a wrong mask."""
    tokenizer: Any = tiny_tokenizer()
    messages = [{"role": "user", "content": "<b>where"}, {"role": "assistant", "content": "card"}]
    encoded = encode_row(tokenizer, messages, (tokenizer.eos_token_id,))
    row = Example("train, row 1", tuple(encoded.ids), tuple(encoded.trained))
    preflight.show([row] * 9, tokenizer, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h2>") == 5 and "<b>" not in page
    marked = "".join(part.split("</mark>")[0] for part in page.split("<h2>")[1].split("<mark>")[1:])
    assert marked == "card&lt;|im_end|&gt;"
