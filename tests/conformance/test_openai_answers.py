"""What answers, by the openai package: models, chat, completions, embeddings, audio, responses. Its engine is real."""

import asyncio
import inspect
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.conformance.answering import Answering
from tests.conformance.cutting import cutting
from tests.sensed import picture, recording, registered

EYES, EARS = "efficientnet-lite0", "whisper-tiny.en"
SAID: Any = [{"role": "user", "content": "where is my parcel"}]


class Verdict(BaseModel):
    """A form for answers."""

    fine: bool


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(openai.BadRequestError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == "invalid_request" and caught.value.type == "invalid_request_error"
    return caught.value.message


def test_models(answering: Answering) -> None:
    models = answering.client.models
    assert "tiny" in [model.id for model in models.list()]
    assert models.retrieve("tiny").object == "model"
    assert "not deleted" in refused(models.delete, "tiny")
    with pytest.raises(openai.NotFoundError):
        models.retrieve("ft:none:x/y")


def test_chat(answering: Answering) -> None:
    chat = answering.client.chat.completions
    wanted: Any = {"model": "tiny", "messages": SAID, "max_completion_tokens": 6}
    answer = chat.create(**wanted, n=2, seed=3, temperature=1.0, stop=["zzz"], logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1] and answer.usage is not None
    told = answer.choices[0].logprobs
    assert told is not None and told.content is not None and len(told.content[0].top_logprobs) == 2
    again = chat.create(**wanted, seed=3, temperature=1.0)
    assert chat.create(**wanted, seed=3, temperature=1.0).choices[0].message == again.choices[0].message
    pieces = list(chat.create(**wanted, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == chat.create(**wanted).choices[0].message.content
    assert pieces[-1].choices == [] and pieces[-1].usage is not None
    with chat.stream(**wanted) as stream:
        assert "content.delta" in [event.type for event in stream]
        assert stream.current_completion_snapshot.choices[0].message.content == text, "no final one: six tokens are few"
    # A random model's likeliest words may be white space without end; drawn ones are not.
    drawn: Any = {"model": "tiny", "messages": SAID, "temperature": 1.0, "seed": 3, "max_completion_tokens": 300}
    parsed = chat.parse(**drawn, response_format=Verdict)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)


def test_chat_about_a_picture_and_a_recording(answering: Answering) -> None:
    eyes, ears = (
        registered("vision", EYES, "classification", "colours"),
        registered("audio", EARS, "transcription", "clock"),
    )
    seen: Any = [{"type": "image_url", "image_url": {"url": picture("red")}}]
    answer = answering.client.chat.completions.create(model=eyes.model_id, messages=[{"role": "user", "content": seen}])
    assert answer.choices[0].message.content == "red"
    shown: Any = [{"type": "input_image", "image_url": picture("red"), "detail": "auto"}]
    response = answering.client.responses.create(model=eyes.model_id, input=[{"role": "user", "content": shown}])
    assert response.output_text == "red" and ears.model_id in [model.id for model in answering.client.models.list()]


def test_stored_chat_completions_are_refused(answering: Answering) -> None:
    chat = answering.client.chat.completions
    for call in (
        chat.list,
        lambda: chat.retrieve("x"),
        lambda: chat.update("x", metadata={}),
        lambda: chat.delete("x"),
    ):
        assert "not stored" in refused(call)
    assert "not stored" in refused(chat.messages.list, "x")
    speech = answering.client.audio.speech
    assert "speaks" in refused(speech.create, model="tts", voice="alloy", input="hello")


def test_completions(answering: Answering) -> None:
    create = answering.client.completions.create
    wanted: Any = {"model": "tiny", "prompt": "where is", "max_tokens": 6}
    answer = create(**wanted, logprobs=2, n=2, temperature=1.0, seed=1)
    told = answer.choices[1].logprobs
    assert told is not None and told.tokens and "".join(told.tokens).startswith(answer.choices[1].text[:3])
    assert told.text_offset is not None and told.text_offset[0] == len("where is")
    text = create(**wanted).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in create(**wanted, stream=True)) == text
    chat = answering.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "where is"}], max_completion_tokens=6
    )
    assert chat.usage is not None and answer.usage is not None
    assert answer.usage.prompt_tokens < chat.usage.prompt_tokens, "no template around it"
    assert "echo" in refused(create, **wanted, echo=True)


def test_embeddings(answering: Answering) -> None:
    wanted: Any = {"model": EYES, "input": picture("blue")}
    for form in ({}, {"encoding_format": "float"}):  # by itself the package asks for base64, and reads it
        assert answering.client.embeddings.create(**wanted, **form).data[0].embedding == [0.5] * 4
    assert answering.client.embeddings.create(model=EYES, input=[picture("blue")] * 2).data[1].index == 1


def test_audio(answering: Answering) -> None:
    create, file = answering.client.audio.transcriptions.create, ("a.wav", recording(2))
    assert "2 seconds" in create(model="whisper-1", file=file).text
    for form in ("text", "srt", "vtt"):
        assert "2 seconds" in str(create(model="whisper-1", file=file, response_format=form))
    long: Any = create(
        model="whisper-1", file=file, response_format="verbose_json", timestamp_granularities=["segment", "word"]
    )
    assert long.segments and long.segments[0].text == "2 seconds" and float(long.duration) == 2
    kinds = [event.type for event in create(model="whisper-1", file=file, stream=True)]
    assert kinds[-1] == "transcript.text.done"
    assert "2 seconds" in answering.client.audio.translations.create(model="whisper-1", file=file).text


def test_responses(answering: Answering) -> None:
    responses = answering.client.responses
    wanted: Any = {"model": "tiny", "max_output_tokens": 6}
    first = responses.create(**wanted, input="where is my parcel", instructions="Be kind.")
    assert first.status == "incomplete" and first.incomplete_details is not None, "six tokens are few"
    second = responses.create(**wanted, input="and my card", previous_response_id=first.id)
    assert second.usage is not None and second.usage.output_tokens == 6
    assert responses.retrieve(second.id).output_text == second.output_text
    assert [item.type for item in responses.input_items.list(first.id)] == ["message"]
    assert responses.delete(first.id) is None
    with responses.stream(**wanted, input="where is my parcel") as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
    drawn: Any = {"model": "tiny", "max_output_tokens": 300, "temperature": 1.0, "extra_body": {"seed": 3}}
    parsed = responses.parse(**drawn, input="where is my parcel", text_format=Verdict)
    assert isinstance(parsed.output_parsed, Verdict)
    assert "not offered" in refused(responses.cancel, second.id)
    if hasattr(responses, "compact"):
        assert "not offered" in refused(responses.compact, model="tiny")
        assert "not offered" in refused(responses.input_tokens.count, model="tiny", input="x")


def test_asynchronously(answering: Answering) -> None:
    async def ask() -> None:
        async with answering.asynchronous() as client:
            assert "tiny" in [model.id async for model in client.models.list()]
            assert (await client.models.retrieve("tiny")).id == "tiny"
            wanted: Any = {"model": "tiny", "messages": SAID, "max_completion_tokens": 6}
            text = (await client.chat.completions.create(**wanted)).choices[0].message.content
            stream = await client.chat.completions.create(**wanted, stream=True)
            assert "".join([piece.choices[0].delta.content or "" async for piece in stream]) == text
            asked: Any = {"model": "tiny", "prompt": "where is", "max_tokens": 6}
            whole = (await client.completions.create(**asked)).choices[0].text
            chunks = await client.completions.create(**asked, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in chunks]) == whole
            found = await client.embeddings.create(model=EYES, input=picture("blue"))
            assert found.data[0].embedding == [0.5] * 4
            heard = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording(2)))
            assert "2 seconds" in heard.text
            made = await client.responses.create(model="tiny", input="where is", max_output_tokens=6)
            assert (await client.responses.retrieve(made.id)).output_text == made.output_text
            await client.responses.delete(made.id)

    asyncio.run(ask())


def test_errors_are_the_envelopes_own(answering: Answering) -> None:
    wrong = openai.OpenAI(base_url=f"{answering.url}/v1", api_key="mo-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    wrong.close()
    with pytest.raises(openai.NotFoundError) as caught:
        answering.client.chat.completions.create(model="nobody", messages=SAID)
    assert caught.value.request_id and caught.value.code == "not_found"
    assert inspect.isclass(openai.BadRequestError)


@pytest.mark.parametrize("way", ["chat", "completions", "responses"])
def test_a_stream_that_is_cut_is_an_error_and_asked_again_the_same_answer(answering: Answering, way: str) -> None:
    wanted: Any = {
        "chat": {"messages": SAID, "max_completion_tokens": 40},
        "completions": {"prompt": "where is", "max_tokens": 40},
        "responses": {"input": "where is", "max_output_tokens": 40},
    }[way]
    with cutting(answering.url, b"POST", after=1500) as relay:
        client = openai.OpenAI(base_url=f"{relay.url}/v1", api_key=answering.key, timeout=60, max_retries=0)
        create: Any = (client.chat.completions if way == "chat" else getattr(client, way)).create
        heard: list[Any] = []
        with pytest.raises(Exception) as caught:
            heard.extend(create(model="tiny", stream=True, **wanted))
        assert "Remote" in type(caught.value).__name__ or isinstance(caught.value, openai.APIError)
        again = list(create(model="tiny", stream=True, **wanted))
        assert len(again) > 5 and relay.cuts == 0
        client.close()
