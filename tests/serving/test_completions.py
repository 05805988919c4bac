"""What answers is not trusted: numbers must be numbers and text must be text, or the answer is an error."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moatelier.errors import InvalidRequest, MoatelierError, UpstreamError
from serving import sse
from serving.completions import FINISHED, Said, streamed, whole
from tests.faulty import completion

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def changed(**fields: Any) -> dict[str, Any]:
    answer = completion("parcel", -0.5)
    answer["choices"][0] |= fields
    return answer


def test_a_completion_is_read() -> None:
    assert whole(completion("parcel", -0.5)) == Said("parcel", "stop", -0.5, 3, 2)


@pytest.mark.parametrize("content", ["", "  \n", None, 3, ["parcel"], {}])
def test_an_answer_without_words_is_an_error(content: Any) -> None:
    with pytest.raises(UpstreamError):
        whole(changed(message={"content": content}))


@pytest.mark.parametrize("choices", [None, [], [3], {}, [{"text": "x"}]])
def test_what_is_no_completion_is_an_error(choices: Any) -> None:
    with pytest.raises(UpstreamError, match="no chat completion"):
        whole({"choices": choices})


@pytest.mark.parametrize("logprob", [1000.0, float("nan"), float("inf"), float("-inf")])
def test_log_probabilities_that_are_none_are_not_believed(logprob: float) -> None:
    assert whole(completion("parcel", logprob)).likelihood is None


@pytest.mark.parametrize("count", [-1, 1e9, "3", None, True, 10**12, float("inf"), [3]])
def test_token_counts_that_are_none_count_nothing(count: Any) -> None:
    answer = completion("parcel", -0.5) | {"usage": {"prompt_tokens": count, "completion_tokens": 2}}
    assert (whole(answer).prompt_tokens, whole(answer).completion_tokens) == (0, 2)


def test_halves_of_characters_become_question_marks() -> None:
    said = whole(completion("a \ud83d b", -0.5)).text
    assert said == "a ? b" and said.encode()


@given(json_values, st.sampled_from(["message", "finish_reason", "logprobs"]))
def test_whatever_stands_in_an_answer_it_is_read_or_refused(value: Any, where: str) -> None:
    try:
        said = whole(changed(**{where: value}))
    except UpstreamError:
        return
    assert said.text.strip() and said.finish_reason in FINISHED
    assert said.likelihood is None or said.likelihood <= 0


def play(*parts: bytes) -> tuple[Said, list[str]]:
    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    heard: list[str] = []
    return asyncio.run(streamed(sse.bodies(chunks()), heard.append)), heard


def data(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def piece(text: str, **more: Any) -> bytes:
    return data({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None} | more]})


END = b"data: [DONE]\n\n"
USAGE = data({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}})


def test_a_stream_is_read_piece_by_piece() -> None:
    told = {"logprobs": {"content": [{"logprob": -0.5}]}}
    said, heard = play(piece("par"), piece("cel", **told), piece("", finish_reason="length"), USAGE, END)
    assert said == Said("parcel", "length", -0.5, 4, 2) and heard == ["par", "cel"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((piece("x"),), "broke off"),
        ((piece("x"), b"data: {nonsense\n\n", END), "not JSON"),
        ((data([1]), END), "not a JSON object"),
        ((data({"choices": 3}), END), "no chunk"),
        ((END,), "empty"),
        ((b"data: " + b"[" * 100_000 + b"\n\n", END), "not JSON"),
        ((piece("x"), data({"error": {"message": "Out of memory."}}), END), "Out of memory"),
        ((data({"error": "text"}), END), "text"),
    ],
)
def test_a_stream_that_is_none_is_an_error(parts: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(UpstreamError, match=words):
        play(*parts)


def test_an_error_of_ours_in_a_stream_stays_what_it_is() -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        play(data({"error": {"message": "The prompt is too long.", "code": "invalid_request"}}), END)
    with pytest.raises(MoatelierError):
        play(data({"error": {"message": "?", "code": "unheard_of"}}), END)
