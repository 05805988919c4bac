"""Models and files through the unmodified openai client."""

from pathlib import Path

import openai
import pytest

from store import adapters, keys, tasks
from tests.api.conftest import Service, make_adapter
from tests.api.fake_engine import BASE

CONVERSATION = "moatelier"


def test_models_are_the_base_the_adapters_and_their_aliases(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [BASE, CONVERSATION]
    record = make_adapter()
    adapters.set_alias("default", "support", record.digest, fence=1, actor="test")
    assert [model.id for model in client.models.list()] == [BASE, record.model_id, "support", CONVERSATION]
    for name in (record.model_id, "support", record.digest):
        found = client.models.retrieve(name).to_dict()
        assert (found["id"], found["root"], found["parent"]) == (name, record.model_id, BASE)
    assert client.models.retrieve(BASE).to_dict()["parent"] is None
    with pytest.raises(openai.NotFoundError, match=r"Did you mean"):
        client.models.retrieve(record.model_id[:-1])


def test_an_adapter_of_another_project_does_not_exist(service: Service, client: openai.OpenAI) -> None:
    record = make_adapter()
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=keys.create("other", "test"), max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            other.models.retrieve(record.model_id)
        with pytest.raises(openai.NotFoundError):
            other.chat.completions.create(model=record.model_id, messages=[{"role": "user", "content": "hi"}])
    assert client.models.retrieve(record.model_id).id == record.model_id


def test_a_file_comes_back_byte_for_byte(client: openai.OpenAI, tmp_path: Path) -> None:
    data = "message,intent\nwo ist mein päckchen,parcel\n".encode() * 50_000  # more than fits the parser's memory
    path = tmp_path / "support.csv"
    path.write_bytes(data)
    sent = client.files.create(file=path, purpose="fine-tune")
    assert (sent.filename, sent.bytes, sent.purpose, sent.status) == (
        "support.csv",
        len(data),
        "fine-tune",
        "processed",
    )
    assert client.files.retrieve(sent.id) == sent
    assert client.files.content(sent.id).read() == data
    assert client.files.wait_for_processing(sent.id).id == sent.id


def test_files_are_listed_in_pages_and_deleted(client: openai.OpenAI) -> None:
    sent = [client.files.create(file=(f"{n}.jsonl", b"{}\n%d" % n), purpose="fine-tune").id for n in range(5)]
    assert [file.id for file in client.files.list(limit=2)] == sent[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == sent
    assert [file.id for file in client.files.list(purpose="batch")] == []
    assert client.files.delete(sent[0]).deleted
    assert [file.id for file in client.files.list()] == sent[:0:-1]
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.files.retrieve(sent[0])
    with pytest.raises(openai.BadRequestError, match="after"):
        client.files.list(after=sent[0])


def test_bad_uploads(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="empty") as empty:
        client.files.create(file=("empty.csv", b""), purpose="fine-tune")
    assert empty.value.code == "data_error"
    with pytest.raises(openai.BadRequestError) as missing:
        client.post("/files", cast_to=object, body={"purpose": "fine-tune"})
    assert missing.value.param == "file"


def test_a_file_in_use_is_kept(client: openai.OpenAI) -> None:
    sent = client.files.create(file=("a.csv", b"a,b\n1,2\n"), purpose="fine-tune").id
    tasks.create_task(
        "default", id="task-1", thread="t", conversation="c", request="r", train_file=sent, test_file=None
    )
    with pytest.raises(openai.BadRequestError, match="uses this file"):
        client.files.delete(sent)
