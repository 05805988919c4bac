"""Rollouts over HTTP: who is drawn stays, a challenger that fails is stood in for, and nobody sees the shadow."""

from collections import Counter
from typing import Any

import httpx
import pytest

from graphs import rollouts as driver
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from serving.upstream import Upstream
from store import adapters, alerts, feedback, observations
from tests.api.conftest import Service, make_adapter
from tests.api.running import wait_until

Pair = tuple[adapters.AdapterRecord, adapters.AdapterRecord]


@pytest.fixture
def pair(service: Service) -> Pair:
    champion, challenger = (make_adapter(seed=seed, kind="chat") for seed in (1, 2))
    adapters.set_alias("default", "support", champion.digest, fence=1, actor="test")
    return champion, challenger


def begin(http: httpx.Client, challenger: str, **plan: Any) -> dict[str, Any]:
    body = {"alias": "support", "challenger": challenger, "plan": {"share": 0.5, **plan}}
    begun = http.post("/v1/rollouts", json=body)
    assert begun.status_code == 201, begun.text
    return dict(begun.json())


def ask(http: httpx.Client, words: str = "hello", **more: Any) -> httpx.Response:
    body = {"model": "support", "messages": [{"role": "user", "content": words}], **more}
    return http.post("/v1/chat/completions", json=body)


def by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-moatelier-adapter"]


def test_a_user_stays_on_one_side_and_the_shares_are_right(http: httpx.Client, pair: Pair) -> None:
    begin(http, pair[1].model_id, share=0.3)
    sides = {user: by(ask(http, user=f"user-{user}")) for user in range(120)}
    assert all(by(ask(http, f"again {user}", user=f"user-{user}")) == sides[user] for user in range(0, 120, 7))
    share = Counter(sides.values())[pair[1].digest] / 120
    assert 0.15 < share < 0.45 and set(sides.values()) == {pair[0].digest, pair[1].digest}


def test_without_a_user_a_conversation_stays_on_one_side(http: httpx.Client, pair: Pair) -> None:
    begin(http, pair[1].digest)
    for number in range(10):
        first = {"role": "user", "content": f"conversation {number}"}
        begun = by(http.post("/v1/chat/completions", json={"model": "support", "messages": [first]}))
        turns = [first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then"}]
        assert by(http.post("/v1/chat/completions", json={"model": "support", "messages": turns})) == begun


def test_by_its_own_name_each_is_asked_as_before(http: httpx.Client, pair: Pair) -> None:
    begin(http, pair[1].digest, share=0.9)
    for record in pair:
        body = {"model": record.model_id, "messages": [{"role": "user", "content": "x"}], "user": "somebody"}
        assert by(http.post("/v1/chat/completions", json=body)) == record.digest


def test_answers_and_words_reach_the_rollout(http: httpx.Client, pair: Pair) -> None:
    begun = begin(http, pair[1].digest)
    ids = [ask(http, user=f"user-{number}").json()["id"] for number in range(30)]
    for id in ids:
        assert http.post("/v1/feedback", json={"completion": id, "rating": 1}).status_code == 200
    wait_until(lambda: len(observations.of_rollout("default", begun["id"])) == 30)
    said = feedback.words_of("default", begun["id"])
    assert len(said) == 30 and {word.side for word in said} == {"champion", "challenger"}
    driver.look_after()
    shown = http.get("/v1/rollouts/support").json()
    assert shown["state"] == "canary"
    assert [one["measure"] for one in shown["evidence"]["compared"]] == ["liked", "answered"]
    seen = observations.after("default", "support", pair[0].digest, 0, 1)[0]
    assert seen.numbers["prompt_chars"] == 5 and seen.numbers["answer_chars"] > 5
    assert "hello" not in str(seen.numbers), "no words are kept"


def test_a_challenger_that_fails_is_stood_in_for_and_rolled_back(
    http: httpx.Client, pair: Pair, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(http, pair[1].digest)
    served = f"support@{pair[1].digest}"

    real = Upstream.load_adapter

    async def load(self: Upstream, name: str, path: Any) -> None:
        if name == served:
            raise MoatelierError("it does not load")
        await real(self, name, path)

    monkeypatch.setattr(Upstream, "load_adapter", load)
    for number in range(150):
        assert by(ask(http, user=f"user-{number}")) == pair[0].digest, "the champion keeps answering"
    stream = ask(http, stream=True, user="user-1")
    assert stream.status_code == 200 and "[DONE]" in stream.text
    wait_until(lambda: len(observations.of_rollout("default", begun["id"])) >= 100)
    driver.look_after()
    assert http.get(f"/v1/rollouts/{begun['id']}").json()["state"] == "rolled_back"


def test_the_shadow_answers_beside_and_is_not_seen(http: httpx.Client, pair: Pair, service: Service) -> None:
    begun = begin(http, pair[1].digest, shadow=1000)
    for number in range(8):
        assert by(ask(http, user=f"user-{number}")) == pair[0].digest

    def shadowed() -> int:
        return sum(one.shadow for one in observations.of_rollout("default", begun["id"]))

    wait_until(lambda: shadowed() > 0)
    asked = {request["model"] for request in service.engine.requests}
    assert asked == {f"support@{record.digest}" for record in pair}


def test_a_person_stops_promotes_and_takes_back(http: httpx.Client, pair: Pair) -> None:
    first = begin(http, pair[1].digest)
    assert http.post("/v1/rollouts/support/stop").json()["state"] == "stopped"
    second = begin(http, pair[1].digest)
    assert first["id"] != second["id"]
    assert http.post(f"/v1/rollouts/{second['id']}/promote").json()["state"] == "promoted"
    assert adapters.alias_of("default", "support") == (pair[1].digest, 2)
    assert http.post("/v1/rollouts/support/revert").json()["state"] == "rolled_back"
    assert adapters.alias_of("default", "support") == (pair[0].digest, 3)
    assert [one["state"] for one in http.get("/v1/rollouts").json()["data"]] == ["rolled_back", "stopped"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"alias": "support", "challenger": "nobody"}, 404, "not_found"),
        ({"alias": "nobody", "challenger": "CHALLENGER"}, 404, "not_found"),
        ({"alias": "support", "challenger": "support"}, 400, "invalid_request"),
        ({"alias": "support", "challenger": "CHALLENGER", "plan": {"share": 1.0}}, 400, "invalid_request"),
        ({"alias": "support", "challenger": "CHALLENGER", "plan": {"other": 1}}, 400, "invalid_request"),
        ({"alias": "support"}, 400, "invalid_request"),
    ],
)
def test_what_cannot_be_begun_is_refused(
    http: httpx.Client, pair: Pair, body: dict[str, Any], status: int, code: str
) -> None:
    sent = {name: pair[1].digest if value == "CHALLENGER" else value for name, value in body.items()}
    answer = http.post("/v1/rollouts", json=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert by(ask(http)) == pair[0].digest


def test_feedback_that_is_refused_is_typed_and_counted(
    http: httpx.Client, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = http.post("/v1/feedback", json={"completion": "chatcmpl-nobody", "rating": 1})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    monkeypatch.setenv("MOATELIER_FEEDBACK_PER_DAY", "5")
    settings.cache_clear()
    ids = [ask(http).json()["id"] for _ in range(8)]
    sent = [http.post("/v1/feedback", json={"completion": id, "rating": 1}) for id in ids]
    assert [answer.status_code for answer in sent] == [200] * 5 + [429] * 3
    assert sent[-1].json()["error"]["code"] == "rate_limit_exceeded"
    again = http.post("/v1/feedback", json={"completion": ids[0], "rating": -1})
    assert again.status_code == 200, "a word that replaces one is not a further one"
    text = http.get("/metrics").text
    assert 'moatelier_feedback_refused_total{outcome="not_found"}' in text
    assert 'moatelier_feedback_refused_total{outcome="rate_limit_exceeded"}' in text


def test_alerts_are_listed_and_acknowledged(http: httpx.Client) -> None:
    alerts.raise_once("default", "latency", "support", "It is slow.", {"ms": 9}, about="1")
    [alert] = http.get("/v1/alerts", params={"unseen": True}).json()["data"]
    assert (alert["monitor"], alert["delivery"]) == ("latency", "logged")
    assert http.post(f"/v1/alerts/{alert['id']}/seen").json()["seen_at"]
    assert http.get("/v1/alerts", params={"unseen": True}).json()["data"] == []
    assert len(http.get("/v1/alerts").json()["data"]) == 1
