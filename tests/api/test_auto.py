"""`model: "auto"`, embeddings and feedback through the unmodified openai client."""

from typing import Any

import httpx
import numpy as np
import openai
import pytest

from store import adapters, db, events, feedback, keys
from store.tables import RecordRow
from tests.api import fake_engine
from tests.api.conftest import Service, make_adapter
from tests.api.fake_engine import BASE
from tests.api.running import wait_until
from tests.routed import PARCEL, REFUND, join, sign_card

Pair = tuple[adapters.AdapterRecord, adapters.AdapterRecord]


@pytest.fixture
def pair(service: Service) -> Pair:
    """Two adapters that have joined: one for parcels, one for refunds."""
    parcel, refund = make_adapter("parcel", seed=1), make_adapter("refund", seed=2)
    sign_card("default", (join(parcel, PARCEL), PARCEL), (join(refund, REFUND), REFUND))
    return parcel, refund


def ask(client: openai.OpenAI, text: str, **more: Any) -> Any:
    return client.chat.completions.create(model="auto", messages=[{"role": "user", "content": text}], **more)


def route(answer: Any) -> dict[str, Any]:
    return dict(answer.model_extra["moatelier"]["route"])


def test_the_words_choose_the_adapter_and_other_words_the_base(client: openai.OpenAI, pair: Pair) -> None:
    parcel, refund = pair
    for text, record in (("where is the parcel", parcel), ("please give my money back", refund)):
        answer = ask(client, text)
        assert answer.model == record.model_id and route(answer)["chosen"] == record.digest
        assert answer.choices[0].message.content.startswith(f"{record.suffix}@{record.digest}")
        assert route(answer)["reason"] == "auto" and route(answer)["propensity"] == 1
    stranger = ask(client, "which wine goes with mushroom risotto")
    assert stranger.model == BASE and route(stranger)["reason"] == "abstain" and route(stranger)["chosen"] == "base"
    assert sum(route(stranger)["probabilities"].values()) == pytest.approx(1, abs=0.1)


def test_the_last_words_count_not_the_first(client: openai.OpenAI, pair: Pair) -> None:
    answer = client.chat.completions.create(
        model="auto",
        messages=[
            {"role": "user", "content": "where is my parcel"},
            {"role": "assistant", "content": "on its way"},
            {"role": "user", "content": [{"type": "text", "text": "i want my money back"}]},
        ],
    )
    assert answer.model == pair[1].model_id


def test_a_stream_says_once_how_it_was_routed(client: openai.OpenAI, pair: Pair) -> None:
    stream = ask(client, "track the parcel", stream=True)
    chunks = list(stream)
    told = [chunk.model_extra["moatelier"] for chunk in chunks if "moatelier" in (chunk.model_extra or {})]
    assert len(told) == 1 and told[0]["route"]["chosen"] == pair[0].digest
    assert "moatelier" in (chunks[0].model_extra or {})
    assert stream.response.headers["x-moatelier-adapter"] == pair[0].digest


def test_a_named_model_is_not_routed(client: openai.OpenAI, pair: Pair) -> None:
    answer = client.chat.completions.create(model=pair[0].model_id, messages=[{"role": "user", "content": "money"}])
    assert answer.model == pair[0].model_id and "moatelier" not in (answer.model_extra or {})


def test_the_decision_is_kept_with_the_completion(client: openai.OpenAI, pair: Pair) -> None:
    answer = ask(client, "where is my parcel")
    wait_until(lambda: events.find("default", answer.id, "route") is not None)
    kept = feedback.route_of("default", answer.id)
    assert (kept.requested, kept.chosen, kept.region, kept.propensity) == ("auto", pair[0].digest, pair[0].digest, 1)
    assert kept.probabilities == route(answer)["probabilities"]


def test_auto_is_a_model_once_an_adapter_has_joined(client: openai.OpenAI, service: Service) -> None:
    stays_out = make_adapter("out", seed=9)
    join(stays_out, PARCEL, joined=False)
    assert "auto" not in [model.id for model in client.models.list()]
    for call in (lambda: client.models.retrieve("auto"), lambda: ask(client, "hello")):
        with pytest.raises(openai.NotFoundError, match="no adapter to choose from"):
            call()
    join(make_adapter("parcel", seed=1), PARCEL)
    assert "auto" in [model.id for model in client.models.list()]
    assert client.models.retrieve("auto").to_dict()["parent"] == BASE
    wait_until(lambda: _answers(client), timeout_s=3)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=keys.create("other", "test"), max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            ask(other, "where is my parcel")


def _answers(client: openai.OpenAI) -> bool:
    try:
        return bool(ask(client, "where is my parcel").choices)
    except (openai.NotFoundError, openai.BadRequestError):
        return False  # a roster is remembered for a second


def test_a_successor_takes_its_predecessors_place(client: openai.OpenAI, pair: Pair) -> None:
    successor = make_adapter("parcel", seed=3)
    join(successor, PARCEL, replaces=pair[0].digest)
    wait_until(lambda: ask(client, "where is my parcel").model == successor.model_id, timeout_s=3)


def test_without_the_embedding_model_auto_says_what_to_do(client: openai.OpenAI, service: Service, pair: Pair) -> None:
    service.engine.embeds = False
    with pytest.raises(openai.InternalServerError, match="moatelier models pull") as caught:
        ask(client, "where is my parcel")
    assert caught.value.status_code == 503 and caught.value.code == "model_unavailable"
    assert client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}]).choices


def test_profiles_of_another_embedding_model_are_refused_never_mixed(client: openai.OpenAI, service: Service) -> None:
    parcel, refund = make_adapter("parcel", seed=1), make_adapter("refund", seed=2)
    join(parcel, PARCEL, embedding="older-model")
    with pytest.raises(openai.BadRequestError, match="older-model.*moatelier adapters route NAME") as caught:
        ask(client, "where is my parcel")
    assert caught.value.code == "conflict" and "auto" not in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="older-model"):
        client.models.retrieve("auto")
    join(refund, REFUND)
    wait_until(lambda: "auto" in [model.id for model in client.models.list()], timeout_s=3)
    wait_until(lambda: _answers(client), timeout_s=3)
    assert route(ask(client, "where is my parcel"))["chosen"] != parcel.digest
    join(parcel, PARCEL, run="run-2")
    wait_until(lambda: route(ask(client, "where is my parcel"))["chosen"] == parcel.digest, timeout_s=3)


def test_pictures_need_an_adapter_for_pictures(http: httpx.Client, pair: Pair) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    answer = http.post(
        "/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": picture}]}
    )
    assert answer.status_code == 404 and "yet for vision" in answer.json()["error"]["message"]


def test_embeddings_in_both_forms(client: openai.OpenAI, http: httpx.Client) -> None:
    texts = ["where is my parcel", "refund"]
    found = client.embeddings.create(model="all-minilm-l6-v2", input=texts)  # the client asks for base64
    assert np.allclose([item.embedding for item in found.data], [fake_engine.vector(text) for text in texts], atol=1e-6)
    plain = http.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "refund"}).json()
    assert np.allclose(plain["data"][0]["embedding"], fake_engine.vector("refund"), atol=1e-6)


def test_feedback_is_kept_at_once_and_the_latest_word_stands(
    http: httpx.Client, client: openai.OpenAI, pair: Pair
) -> None:
    answer = ask(client, "where is my parcel")
    for rating in (1, -1, -1):
        kept = http.post("/v1/feedback", json={"completion": answer.id, "rating": rating, "comment": "late"})
        assert kept.status_code == 200, kept.text
    assert (kept.json()["chosen"], kept.json()["rating"]) == (pair[0].digest, -1)
    assert feedback.tallies("default") == {(pair[0].digest, pair[0].digest): (0, 1)}


def test_feedback_moves_the_route(http: httpx.Client, client: openai.OpenAI, service: Service, pair: Pair) -> None:
    """Whoever is told often enough that an adapter's answers are bad asks the next one, and in the end the base."""
    text = "parcel parcel my money refund"
    first = ask(client, text)
    for _ in range(30):
        again = ask(client, text)
        if again.model == first.model:
            http.post("/v1/feedback", json={"completion": again.id, "rating": -1})
    wait_until(lambda: ask(client, text).model != first.model, timeout_s=5)
    moved = route(ask(client, text))
    assert moved["region"] == route(first)["region"] and moved["propensity"] == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"completion": "chatcmpl-unknown", "rating": 1}, 404, "not_found"),
        ({"completion": "ID"}, 400, "invalid_request"),
        ({"completion": "ID", "rating": 0}, 400, "invalid_request"),
        ({"completion": "ID", "rating": 1, "stars": 5}, 400, "invalid_request"),
        ({"rating": 1}, 400, "invalid_request"),
    ],
)
def test_feedback_that_cannot_be_kept(
    http: httpx.Client, client: openai.OpenAI, body: dict[str, Any], status: int, code: str
) -> None:
    said = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
    sent = {**body, "completion": said.id} if body.get("completion") == "ID" else body
    answer = http.post("/v1/feedback", json=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_another_projects_completion_cannot_be_judged(client: openai.OpenAI, service: Service) -> None:
    said = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
    headers = {"x-api-key": keys.create("other", "test")}
    judged = httpx.post(f"{service.url}/v1/feedback", json={"completion": said.id, "rating": 1}, headers=headers)
    assert judged.status_code == 404
    assert httpx.post(f"{service.url}/v1/feedback", json={"completion": said.id, "rating": 1}).status_code == 401


def test_an_adapters_card_is_shown(http: httpx.Client, pair: Pair) -> None:
    card = http.get(f"/adapters/{pair[1].model_id}/card").json()
    assert set(card["adapters"]) == {pair[0].digest, pair[1].digest} and card["rows"] == 10
    assert http.get(f"/adapters/{pair[0].model_id}/card").status_code == 404
    assert "models pull" in http.get(f"/adapters/{pair[0].model_id}/card").json()["error"]["message"]


def test_a_changed_entry_stops_auto_and_nothing_else(client: openai.OpenAI, pair: Pair) -> None:
    with db.session() as opened:
        row = opened.get_one(RecordRow, ("default", "router_profile", f"{pair[0].digest}@run-1"))
        row.body = {**row.body, "joined": False}
    with pytest.raises(openai.APIStatusError, match="was changed") as caught:
        ask(client, "where is my parcel")
    assert caught.value.status_code == 409
    assert client.chat.completions.create(
        model=pair[0].model_id, messages=[{"role": "user", "content": "where is my parcel"}]
    ).choices
