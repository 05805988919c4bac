"""The older and the younger dialect of answering, by the openai package: /v1/completions and /v1/responses."""

from typing import Any

import openai
import pytest

from moatelier.errors import NotFound
from store import keys, responses
from tests.api.conftest import Service, make_adapter
from tests.api.fake_engine import BASE
from tests.api.running import wait_until


def test_a_text_is_continued_as_it_stands(client: openai.OpenAI, service: Service) -> None:
    answer = client.completions.create(model=BASE, prompt="Once", max_tokens=5, seed=1, stop=["."], n=1)
    assert answer.choices[0].text == f"{BASE}: Once" and answer.object == "text_completion"
    assert answer.usage is not None and answer.usage.total_tokens == 5
    sent = service.engine.requests[0]
    assert sent["raw"] is True and sent["messages"] == [{"role": "user", "content": "Once"}]
    assert (sent["max_tokens"], sent["seed"], sent["stop"]) == (5, 1, ["."])
    several = client.completions.create(model=BASE, prompt=["a", "b"], logprobs=1)
    assert [(choice.index, choice.text) for choice in several.choices] == [(0, f"{BASE}: a"), (1, f"{BASE}: b")]
    told = several.choices[1].logprobs
    assert told is not None and (told.tokens, told.token_logprobs, told.text_offset) == (["x"], [-0.5], [1])
    assert service.engine.requests[-1]["top_logprobs"] == 1 and service.engine.requests[-1]["max_tokens"] == 16


def test_continued_texts_are_streamed_one_after_the_other(client: openai.OpenAI) -> None:
    record = make_adapter()
    stream = client.completions.create(
        model=record.model_id, prompt=["a", "b"], stream=True, stream_options={"include_usage": True}
    )
    assert stream.response.headers["x-moatelier-adapter"] == record.digest
    chunks = list(stream)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [f"support@{record.digest}: {word} " for word in "ab"]
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 6
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.completions.create(model=BASE, prompt="vanish", stream=True))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["x"] * 17}, "prompt"),
        ({"model": "moatelier"}, "model"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
    ],
)
def test_what_cannot_be_continued(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": BASE, "prompt": "x", **more})
    assert caught.value.param == param


def test_a_response_and_what_follows_it(client: openai.OpenAI, service: Service) -> None:
    first = client.responses.create(model=BASE, input="hello", instructions="Be kind.", metadata={"a": "b"})
    assert first.output_text == f"{BASE}: hello" and first.status == "completed"
    assert first.usage is not None and (first.usage.input_tokens, first.usage.total_tokens) == (3, 5)
    second = client.responses.create(
        model=BASE, input=[{"role": "user", "content": "again"}], previous_response_id=first.id, max_output_tokens=7
    )
    assert second.output_text == f"{BASE}: again"
    sent = service.engine.requests[1]
    assert [(turn["role"], turn["content"]) for turn in sent["messages"]] == [
        ("user", "hello"),
        ("assistant", f"{BASE}: hello"),
        ("user", "again"),
    ], "instructions are not carried on"
    assert sent["max_completion_tokens"] == 7
    assert client.responses.retrieve(first.id).output_text == first.output_text
    assert client.responses.retrieve(first.id).metadata == {"a": "b"}
    (item,) = client.responses.input_items.list(first.id).data
    assert item.content[0].text == "hello"  # type: ignore[union-attr]
    client.responses.delete(first.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(first.id)
    with pytest.raises(openai.NotFoundError, match="whole conversation"):
        client.responses.create(model=BASE, input="x", previous_response_id=second.id)
    unstored = client.responses.create(model=BASE, input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_response_is_its_projects_own(client: openai.OpenAI, service: Service) -> None:
    made = client.responses.create(model=BASE, input="secret")
    with pytest.raises(NotFound):
        responses.chain("other", made.id)
    other = openai.OpenAI(base_url=f"{service.url}/v1", api_key=keys.create("other", "test"), max_retries=0)
    for call in (other.responses.retrieve, other.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.NotFoundError):
        other.responses.create(model=BASE, input="x", previous_response_id=made.id)
    other.close()


def test_the_events_of_a_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model=BASE, input="hello there", text={"format": {"type": "text"}}) as stream:
        told = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in told]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert final.output_text == f"{BASE}: hello there " and final.usage is not None and final.usage.output_tokens == 3
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_a_response_that_breaks_off_has_failed_and_is_not_kept(client: openai.OpenAI) -> None:
    for said, reason in (("vanish", "broke off"), ("fail", "Out of memory")):
        told = list(client.responses.create(model=BASE, input=said, stream=True))
        last: Any = told[-1]
        assert last.type == "response.failed" and reason in last.response.error.message
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(last.response.id)


def test_a_client_that_hangs_up_stops_the_engine(client: openai.OpenAI, service: Service) -> None:
    with client.responses.create(model=BASE, input="slow", stream=True) as stream:
        next(iter(stream))
    with client.completions.create(model=BASE, prompt="slow", stream=True) as older:
        next(iter(older))
    wait_until(lambda: service.engine.hung_up == 2)


def test_pictures_recordings_and_schemas_go_on_to_chat(client: openai.OpenAI, service: Service) -> None:
    parts: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    form: Any = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}
    client.responses.create(model=BASE, input=[{"role": "user", "content": parts}], text=form, temperature=0.5)
    sent = service.engine.requests[0]
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["text", "image_url", "input_audio"]
    assert sent["response_format"]["json_schema"] == {"name": "a", "schema": {"type": "object"}, "strict": True}
    assert sent["temperature"] == 0.5


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": ""}, None),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content[0]"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
    ],
)
def test_what_a_response_cannot_be_asked(client: openai.OpenAI, more: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert client.responses.create(model=BASE, input="").output_text == f"{BASE}: "
        return
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": BASE, "input": "x", **more})
    assert caught.value.param == param


def test_the_conversation_speaks_as_responses_too(client: openai.OpenAI) -> None:
    first = client.responses.create(model="moatelier", input="make it better")
    assert first.output_text == "How good is good enough?\n"
    second = client.responses.create(model="moatelier", input="90 %", previous_response_id=first.id)
    assert "Say yes to begin" in second.output_text
