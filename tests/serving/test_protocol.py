"""The dialect without a server: what a body may say, and that the `openai` package reads what we write."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import ValidationError

from moatelier.errors import InvalidRequest
from serving.protocol import DEFAULT_MAX_TOKENS, MAX_CHOICES, ChatRequest, Wire
from serving.sampling import LEAST_LOGPROB, MAX_LOGPROBS, Sampling, TokenLogprob

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["é", "x"]}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields)


def asked(**fields: Any) -> Sampling:
    body = request(**fields)
    body.check()
    return body.sampling()


def test_a_bare_request_is_greedy_and_tells_no_more_than_its_text() -> None:
    assert asked() == Sampling(DEFAULT_MAX_TOKENS)


def test_every_field_arrives() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": -3, "stop": ["a", "b"], "deadline_s": 2.5}
    everything = asked(**fields, max_completion_tokens=7, logprobs=True, top_logprobs=2, response_format=FORMAT)
    assert everything == Sampling(7, 0.5, 0.9, -3, ("a", "b"), 40, 2, json.dumps(SCHEMA, separators=(",", ":")), 2.5)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", 6),
        ({"stop": "end"}, "stop", ("end",)),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 0}, "top_k", 0),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": True, "top_logprobs": None}, "logprobs", 0),
        ({"logprobs": False}, "logprobs", None),
        ({"top_logprobs": 0}, "logprobs", None),
        ({"response_format": {"type": "text"}}, "schema", None),
        ({"response_format": {"type": "json_object"}}, "schema", '{"type":"object"}'),
    ],
)
def test_spellings_of_one_thing(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(asked(**fields), name) == value


def test_a_schema_need_not_be_strict_to_be_kept() -> None:
    for strict in (True, False, None):
        loose = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": strict}}
        assert asked(response_format=loose) == asked(response_format=FORMAT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", MAX_CHOICES + 1),
        ("top_k", -2),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("top_logprobs", MAX_LOGPROBS + 1),
        ("top_logprobs", -1),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", MAX_LOGPROBS + 1),
        ("deadline_s", 0),
        ("logprobs", 5),
        ("seed", "many"),
        ("response_format", "json"),
    ],
)
def test_what_no_request_may_say_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        request(**{field: value})
    assert refused.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 3, "logprobs": False}, "top_logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"temperature": 2.1}, "temperature"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": FORMAT | {"json_schema": {"name": "a", "schema": {"not": {}}}}}, "response_format"),
        ({"response_format": FORMAT | {"json_schema": {"name": "a", "schema": {"$ref": "#"}}}}, "response_format"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, "tools"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"stop_token_ids": [2]}, "stop_token_ids"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**fields)
    assert refused.value.where == where
    assert refused.value.status == 400


def test_fields_that_change_nothing_pass() -> None:
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "auto"}
    neutral |= {"modalities": ["text"], "repetition_penalty": 1.0, "min_p": 0, "stop_token_ids": None, "best_of": 1}
    assert asked(**neutral, user="me", metadata={"a": "b"}, store=True) == asked()


BYTES = {1: b"Hi", 2: "é".encode()[:1], 3: "é".encode()[1:], 4: b"<|im_end|>"}
TOLD = (TokenLogprob(1, -0.5, ((1, -0.5), (4, -1.5))), TokenLogprob(2, -0.25), TokenLogprob(3, LEAST_LOGPROB))


def test_openai_reads_the_log_probabilities_of_a_whole_answer() -> None:
    wire = Wire("m", "fp", spell=BYTES.__getitem__)
    body = json.loads(json.dumps(wire.body([("Hié", "stop", TOLD), ("", "stop", ())], 3, 4), allow_nan=False))
    answer = ChatCompletion.model_validate(body, strict=True)
    first, second = answer.choices
    assert first.logprobs and first.logprobs.content and first.logprobs.refusal is None
    hi, head, tail = first.logprobs.content
    assert (hi.token, hi.logprob, hi.bytes) == ("Hi", -0.5, [72, 105])
    assert [(top.token, top.logprob) for top in hi.top_logprobs] == [("Hi", -0.5), ("<|im_end|>", -1.5)]
    assert (head.token, tail.token) == ("\N{REPLACEMENT CHARACTER}",) * 2
    assert (
        bytes([*(hi.bytes or []), *(head.bytes or []), *(tail.bytes or [])]).decode()
        == answer.choices[0].message.content
    )
    assert tail.logprob == LEAST_LOGPROB
    assert second.logprobs and second.logprobs.content == []


def test_openai_reads_the_log_probabilities_of_a_stream() -> None:
    wire = Wire("m", "fp", spell=BYTES.__getitem__)

    def read(event: bytes) -> Any:
        return ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: ")).choices[0]

    choice = read(wire.chunk({"content": "Hi"}, 1, logprobs=TOLD[:1]))
    assert (choice.index, choice.delta.content) == (1, "Hi")
    assert [told.token for told in choice.logprobs.content] == ["Hi"]
    assert [top.logprob for top in choice.logprobs.content[0].top_logprobs] == [-0.5, -1.5]
    assert read(wire.chunk({}, 1, "stop")).logprobs is None


def test_an_answer_without_log_probabilities_says_null() -> None:
    wire = Wire("m", "fp")
    assert wire.body([("Hi", "stop", ())], 1, 1)["choices"][0]["logprobs"] is None
    assert b'"logprobs":null' in wire.chunk({"content": "Hi"})


@given(st.binary(max_size=6), st.floats(-9999, 0))
def test_any_bytes_of_a_token_survive(spelling: bytes, logprob: float) -> None:
    wire = Wire("m", "fp", spell=lambda token: spelling)
    event = wire.chunk({"content": ""}, logprobs=[TokenLogprob(0, logprob)])
    told = json.loads(event.removeprefix(b"data: "))["choices"][0]["logprobs"]["content"][0]
    assert bytes(told["bytes"]) == spelling
    assert told["token"] == spelling.decode(errors="replace")
    assert told["logprob"] == logprob
