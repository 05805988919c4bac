"""`model: "moatelier"`: a chat page that knows no threads has the whole conversation."""

import base64
from typing import Any

import openai
import pytest

from api.app import create_app
from store import datasets, events, tasks
from tests.api.conftest import Service
from tests.api.fake_worker import VERSION
from tests.api.running import running, wait_until
from tests.api.test_runs import upload

Talk = list[Any]


def ask(client: openai.OpenAI, talk: Talk, words: Any, **more: Any) -> str:
    """Say something and add the answer to the talk, as a page does."""
    talk.append({"role": "user", "content": words})
    answer = client.chat.completions.create(model="moatelier", messages=talk, **more)
    text = answer.choices[0].message.content or ""
    talk.append({"role": "assistant", "content": text})
    return text


def threads() -> list[tasks.Thread]:
    return tasks.search_threads("default", sort_by="created_at", descending=False)


def test_a_page_makes_an_adapter_by_words_alone(client: openai.OpenAI) -> None:
    talk: Talk = [{"role": "system", "content": "Be kind."}]
    assert ask(client, talk, "hello") == "Attach a file.\n"
    plan = ask(client, talk, f"train at least 90 % on {upload()}")
    assert f"Plan {VERSION[:12]}: Train." in plan and "Say yes to begin" in plan
    told = ask(client, talk, "Yes!")
    assert "Say yes to begin" in told, "the fake worker takes plain words for a change of the plan"
    (thread,) = threads()
    assert len(tasks.list_runs("default", thread.id)) == 3
    answered = tasks.list_runs("default", thread.id)[0]
    assert answered.command is not None and list(answered.command["resume"].values()) == ["Yes!"]


def test_a_stream_tells_progress_as_text(client: openai.OpenAI, service: Service) -> None:
    thread = tasks.create_thread("default", graph="conversation", metadata={"graph_id": "conversation"})
    stream = client.chat.completions.create(
        model="moatelier",
        messages=[{"role": "user", "content": "hang"}],
        metadata={"thread_id": thread.id},
        stream=True,
        stream_options={"include_usage": True},
    )
    assert stream.response.headers["x-moatelier-thread"] == thread.id
    run = tasks.list_runs("default", thread.id)[0]
    wait_until(lambda: len(events.read("default", stream=thread.id)) == 1)
    for step in range(1, 41):
        service.worker.say(run, "progress", step, phase="train", steps=40, loss=1 / step)
    service.worker.say(run, "error", 0, what="Row 3 is broken.", remedy="Mend it.")
    service.worker.cancel_run(run)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.splitlines()[0] == "train 10 %, loss 0.250" and text.count("train") == 10
    assert text.endswith("Row 3 is broken. Mend it.\n")
    assert chunks[-1].usage is not None and chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].moatelier["run_id"] == run.id  # type: ignore[attr-defined]


def test_two_chats_that_begin_alike_are_two_threads_and_stay_apart(client: openai.OpenAI) -> None:
    one: Talk = []
    two: Talk = []
    ask(client, one, "make it better")
    ask(client, two, "make it better")
    assert len(threads()) == 2
    ask(client, one, "90 %")
    ask(client, two, "80 %")
    resumed = [tasks.list_runs("default", thread.id)[0].command for thread in threads()]
    assert sorted(next(iter(command["resume"].values())) for command in resumed if command) == ["80 %", "90 %"]


def test_another_user_is_another_person(client: openai.OpenAI) -> None:
    talk: Talk = []
    ask(client, talk, "hello", user="ann")
    ask(client, list(talk), "and?", user="bob")
    ask(client, list(talk), "and?", user="ann")
    first, second = threads()
    assert len(tasks.list_runs("default", first.id)) == 2 and len(tasks.list_runs("default", second.id)) == 1


def test_a_plan_that_was_not_seen_is_not_approved(client: openai.OpenAI) -> None:
    """The page was closed before the plan came, or is a stale tab: `yes` to anything else promotes nothing."""
    talk: Talk = []
    ask(client, talk, f"train on {upload()}")
    stale = [talk[0], {"role": "assistant", "content": "(cut off)"}]
    again = ask(client, stale, "yes")
    (thread,) = threads()
    assert "was not taken up" in again and f"Plan {VERSION[:12]}" in again
    assert thread.status == "interrupted" and len(tasks.list_runs("default", thread.id)) == 1
    named: Talk = []
    told = ask(client, named, "yes", metadata={"thread_id": thread.id})
    assert f"Plan {VERSION[:12]}" in told and len(tasks.list_runs("default", thread.id)) == 1
    ask(client, named, "yes", metadata={"thread_id": thread.id})
    assert len(tasks.list_runs("default", thread.id)) == 2, "now it has been seen"


def test_a_client_that_was_cut_off_joins_what_it_began(client: openai.OpenAI, service: Service) -> None:
    said: Any = [{"role": "user", "content": "hang"}]
    with client.chat.completions.create(model="moatelier", messages=said, stream=True) as first:
        next(iter(first))
    (thread,) = threads()
    run = tasks.list_runs("default", thread.id)[0]
    with running(create_app(service.engine_url)) as url:  # as after a restart
        other = openai.OpenAI(base_url=f"{url}/v1", api_key=service.key, timeout=20, max_retries=0)
        with other.chat.completions.create(model="moatelier", messages=said, stream=True) as second:
            service.worker.cancel_run(run)
            assert list(second)[-1].moatelier["run_id"] == run.id  # type: ignore[attr-defined]
        other.close()
    assert len(threads()) == 1 and len(tasks.list_runs("default", thread.id)) == 1


def test_words_to_a_thread_at_work(client: openai.OpenAI, service: Service) -> None:
    talk: Talk = [{"role": "user", "content": "hang"}]
    with client.chat.completions.create(model="moatelier", messages=talk, stream=True) as first:
        next(iter(first))
    talk.append({"role": "assistant", "content": ""})
    with client.chat.completions.create(
        model="moatelier", messages=[*talk, {"role": "user", "content": "and?"}], stream=True
    ) as second:
        pieces = [chunk.choices[0].delta.content for _, chunk in zip(range(2), second, strict=False)]
    assert "not taken up" in str(pieces[1]) and service.worker.cancelled == set()
    assert ask(client, talk, "Cancel!") == ""
    assert len(service.worker.cancelled) == 1


def test_the_same_answer_is_told_again(client: openai.OpenAI) -> None:
    talk: Talk = []
    ask(client, talk, "hello")
    said = ask(client, talk, "hello again")
    assert ask(client, talk[:2], "hello again") == said
    (thread,) = threads()
    assert len(tasks.list_runs("default", thread.id)) == 2


def test_files_come_as_parts(client: openai.OpenAI) -> None:
    data = base64.b64encode(b"message,intent\na,b\n").decode()
    sent = {"type": "file", "file": {"filename": "a.csv", "file_data": f"data:text/csv;base64,{data}"}}
    held = {"type": "file", "file": {"file_id": upload()}}
    ask(client, [], [{"type": "text", "text": "train"}, sent, held])
    (thread,) = threads()
    files = (tasks.list_runs("default", thread.id)[0].input or {})["files"]
    assert datasets.get_file("default", files["train"]).name == "a.csv" and files["test"] == held["file"]["file_id"]


@pytest.mark.parametrize(
    ("messages", "more", "where"),
    [
        ([{"role": "assistant", "content": "x"}], {}, "messages"),
        ([{"role": "user", "content": " "}], {}, "messages"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], {}, "messages[0].content"),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_data": "%"}}]}], {}, "file.file_data"),
        ([{"role": "user", "content": [{"type": "file", "file": {}}]}], {}, "file"),
        ([{"role": "user", "content": "x"}], {"n": 2}, "n"),
        ([{"role": "user", "content": "x"}], {"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_a_conversation_does_not_take(
    client: openai.OpenAI, messages: Any, more: dict[str, Any], where: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="moatelier", messages=messages, **more)
    assert caught.value.param == where
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model="moatelier", messages=[{"role": "user", "content": "x"}], metadata={"thread_id": "nowhere"}
        )


def test_it_is_listed(client: openai.OpenAI) -> None:
    assert "moatelier" in [model.id for model in client.models.list()]
    assert client.models.retrieve("moatelier").id == "moatelier"
    with pytest.raises(openai.BadRequestError, match="not deleted"):
        client.models.delete("moatelier")
