"""`model: "moa/<name>"` and the routes that look after recipes, through the unmodified openai client."""

import json
import time
from typing import Any

import httpx
import openai
import pytest
import yaml

from moatelier.settings import settings
from store import adapters, events, feedback, keys
from tests.api.conftest import Service, make_adapter
from tests.api.fake_engine import BASE
from tests.api.running import wait_until
from tests.deciding import let_through
from tests.routed import PARCEL, REFUND, join, sign_card

Trio = tuple[adapters.AdapterRecord, adapters.AdapterRecord, adapters.AdapterRecord]
ASKED: list[Any] = [{"role": "user", "content": "where is it"}]


@pytest.fixture
def trio(service: Service) -> Trio:
    """Three adapters, with the aliases a, b and c."""
    made = make_adapter("one", seed=1), make_adapter("two", seed=2), make_adapter("three", seed=3)
    for alias, record in zip("abc", made, strict=True):
        adapters.set_alias("default", alias, record.digest, fence=1, actor="test")
    return made


def recipe(aggregator: Any = "vote", name: str = "desk", **more: Any) -> str:
    kind = {"kind": aggregator} if isinstance(aggregator, str) else aggregator
    proposers = more.pop("proposers", [{"adapter": "a"}, {"adapter": "b"}, {"adapter": "c"}, {"base": True}])
    return yaml.safe_dump({"name": name, "layers": [{"proposers": proposers}], "aggregator": kind, **more})


def add(http: httpx.Client, text: str) -> dict[str, Any]:
    answer = http.post("/v1/moa", json={"yaml": text})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def go_live(http: httpx.Client, text: str) -> dict[str, Any]:
    stored = add(http, text)
    let_through(stored["name"], stored["digest"])
    return stored


def ask(client: openai.OpenAI, model: str = "moa/desk", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=ASKED, **more)


def test_an_answer_has_the_dialects_shape_and_says_how_it_was_made(
    client: openai.OpenAI, http: httpx.Client, service: Service, trio: Trio
) -> None:
    stored = go_live(http, recipe())
    raw = client.chat.completions.with_raw_response.create(model="moa/desk", messages=ASKED, seed=3)
    answer = raw.parse()
    assert answer.choices[0].message.content == f"one@{trio[0].digest}: where is it"
    assert (answer.model, answer.object, answer.choices[0].finish_reason) == ("moa/desk", "chat.completion", "stop")
    assert answer.system_fingerprint == f"fp_{stored['digest'][:24]}"
    assert raw.headers["x-moatelier-recipe"] == stored["digest"]
    assert answer.usage is not None and answer.usage.to_dict() == {
        "prompt_tokens": 12,
        "completion_tokens": 8,
        "total_tokens": 20,
    }
    told = answer.model_extra["moatelier"]  # type: ignore[index]
    assert told["route"]["chosen"] == stored["digest"] and told["route"]["way"] == "vote"
    assert told["route"]["extent"] == "full" and "router could not be asked" in told["route"]["instead"]
    assert [call["model"] for call in told["calls"]] == [*(record.model_id for record in trio), BASE]
    assert told["tokens"] == {"prompt": 12, "completion": 8} and told["milliseconds"] > 0
    assert {request["seed"] for request in service.engine.requests} == {3}
    assert len(service.engine.loaded) == 3


def test_a_stream_tells_of_its_progress_before_it_answers(
    client: openai.OpenAI, http: httpx.Client, service: Service, trio: Trio
) -> None:
    go_live(http, recipe({"kind": "synthesis", "adapter": "c"}))
    stream = ask(client, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and {chunk.model for chunk in chunks} == {"moa/desk"}
    extras = [(chunk.model_extra or {}).get("moatelier", {}) for chunk in chunks]
    steps = [extra["progress"] for extra in extras if "progress" in extra]
    assert steps[0]["event"] == "routed"
    assert [step["event"] for step in steps if step.get("layer") == 0].count("answered") == 4
    assert all(chunk.choices for chunk in chunks[:-1]), "clients that take choices[0] unasked are many"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3 and "".join(pieces).startswith(f"three@{trio[2].digest}: where is it Below are answers")
    last, usage = chunks[-2], chunks[-1]
    assert last.choices[0].finish_reason == "stop"
    assert last.model_extra is not None and last.model_extra["moatelier"]["route"]["way"] == "synthesis"
    assert len(last.model_extra["moatelier"]["calls"]) == 5
    assert usage.choices == [] and usage.usage is not None and usage.usage.completion_tokens > 8


def test_a_vote_is_streamed_as_one_piece(client: openai.OpenAI, http: httpx.Client, trio: Trio) -> None:
    go_live(http, recipe())
    chunks = list(ask(client, stream=True))
    assert [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content] == [
        f"one@{trio[0].digest}: where is it"
    ]
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[-1].usage is None


def test_the_first_word_of_progress_comes_at_once(http: httpx.Client, service: Service, trio: Trio) -> None:
    go_live(http, recipe())
    body = {"model": "moa/desk", "messages": [{"role": "user", "content": "slow"}], "stream": True}
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if '"asked"' in line:
                    break
        times.append(time.perf_counter() - begun)
    assert sorted(times)[2] < 0.1


def test_the_second_layer_reads_the_first_and_would_say_another_thing_without_it(
    client: openai.OpenAI, http: httpx.Client, service: Service, trio: Trio
) -> None:
    second = {"proposers": [{"adapter": "c"}, {"base": True}]}
    said = {}
    for name, layers in (("both", [{"proposers": [{"adapter": "a"}, {"adapter": "b"}]}, second]), ("alone", [second])):
        go_live(http, yaml.safe_dump({"name": name, "layers": layers, "aggregator": {"kind": "vote"}}))
        service.engine.requests.clear()
        said[name] = ask(client, f"moa/{name}").choices[0].message.content
        shown = [str(request["messages"][-1]["content"]) for request in service.engine.requests[-2:]]
        for place, record in enumerate(trio[:2], start=1):
            answer = f"[{place}] {record.suffix}@{record.digest}: where is it"
            assert all((answer in prompt) is (name == "both") for prompt in shown), shown
    assert said["both"].startswith(f"three@{trio[2].digest}: where is it\n\n") and said["both"] != said["alone"]


def test_an_ensemble_is_one_call(client: openai.OpenAI, http: httpx.Client, service: Service, trio: Trio) -> None:
    go_live(http, recipe("ensemble"))
    together = "+".join([*(f"{record.suffix}@{record.digest}" for record in trio), BASE])
    assert ask(client).choices[0].message.content == f"{together}: where is it"
    service.engine.loaded.clear()  # as after a restart
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True))
    assert streamed.startswith(together)
    assert [len(request["ensemble"]) for request in service.engine.requests if "ensemble" in request] == [4, 4, 4]


def test_auto_and_the_gate_ask_the_router(client: openai.OpenAI, http: httpx.Client, trio: Trio) -> None:
    parcel, refund, _ = trio
    sign_card("default", (join(parcel, PARCEL), PARCEL), (join(refund, REFUND), REFUND))
    go_live(http, recipe(proposers=[{"auto": 2}, {"base": True}], gate={"one_below": 1.01}))
    answer = client.chat.completions.create(model="moa/desk", messages=[{"role": "user", "content": "my money back"}])
    told = answer.model_extra["moatelier"]  # type: ignore[index]
    assert answer.choices[0].message.content is not None
    assert told["route"]["effective"] >= 1 and sum(told["route"]["probabilities"].values()) == pytest.approx(1, abs=0.1)
    assert told["route"]["answered_by"] == refund.model_id


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_fields_that_a_recipe_cannot_honour(
    client: openai.OpenAI, http: httpx.Client, service: Service, trio: Trio, more: Any, param: str
) -> None:
    go_live(http, recipe())
    for streamed in (False, True):
        with pytest.raises(openai.BadRequestError, match="one answer of many") as caught:
            ask(client, **more, stream=streamed)
        assert (caught.value.param, caught.value.code) == (param, "invalid_request")
    assert service.engine.requests == []
    assert ask(client, n=1, tools=openai.NOT_GIVEN).choices


def test_the_requests_fault_stays_the_requests_fault(client: openai.OpenAI, http: httpx.Client, trio: Trio) -> None:
    go_live(http, recipe())
    refused: list[Any] = [{"role": "user", "content": "refuse"}]
    for _ in range(7):  # more often than a breaker bears
        with pytest.raises(openai.BadRequestError, match="not supported by this engine"):
            client.chat.completions.create(model="moa/desk", messages=refused)
    with pytest.raises(openai.APIError, match="not supported by this engine"):
        list(client.chat.completions.create(model="moa/desk", messages=refused, stream=True))
    assert ask(client).choices, "nobody else is disturbed"
    with pytest.raises(openai.BadRequestError, match="message is no object"):
        client.chat.completions.create(model="moa/desk", messages=["text"])  # type: ignore[list-item]


def test_an_aggregator_that_breaks_off_is_an_error_not_an_end(
    client: openai.OpenAI, http: httpx.Client, trio: Trio
) -> None:
    go_live(http, recipe("one", proposers=[{"adapter": "a"}]))
    said: list[Any] = [{"role": "user", "content": "vanish"}]
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="moa/desk", messages=said, stream=True))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_hangs_up_stops_every_call(
    http: httpx.Client, service: Service, trio: Trio, streamed: bool
) -> None:
    go_live(http, recipe())
    body = {"model": "moa/desk", "messages": [{"role": "user", "content": "slow"}], "stream": streamed}
    with httpx.Client(base_url=service.url, headers=service.headers, timeout=1) as client:
        if streamed:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                wait_until(lambda: len(service.engine.requests) == 4)
                next(answer.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body)
    wait_until(lambda: service.engine.hung_up == 4)


def test_only_what_a_trial_has_let_through_answers(client: openai.OpenAI, http: httpx.Client, trio: Trio) -> None:
    with pytest.raises(openai.NotFoundError, match="no such recipe"):
        ask(client)
    add(http, recipe())
    with pytest.raises(openai.BadRequestError, match="draft.*moatelier moa evaluate desk") as caught:
        ask(client)
    assert caught.value.code == "conflict"
    assert "moa/desk" not in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="draft"):
        client.models.retrieve("moa/desk")
    go_live(http, recipe("select"))
    wait_until(lambda: not _refusal(client), timeout_s=3)  # what a recipe is, is remembered for a second
    assert "moa/desk" in [model.id for model in client.models.list()]
    assert client.models.retrieve("moa/desk").id == "moa/desk"
    assert http.post("/v1/moa/desk/disable", json={"reason": "enough"}).json()["state"] == "disabled"
    wait_until(lambda: "disabled" in _refusal(client), timeout_s=3)
    assert "enough" in _refusal(client)
    with pytest.raises(openai.NotFoundError, match="moa/desk"):
        ask(client, "moa/dask")


def _refusal(client: openai.OpenAI) -> str:
    try:
        ask(client)
    except openai.BadRequestError as error:
        return error.message
    return ""


def test_a_draft_is_tried_with_everything_to_see(http: httpx.Client, trio: Trio) -> None:
    add(http, recipe())
    trace = http.post("/v1/moa/desk/try", json={"messages": ASKED, "max_tokens": 5}).json()
    assert trace["text"] == f"one@{trio[0].digest}: where is it" and trace["way"] == "vote"
    assert [proposal["likelihood"] for proposal in trace["proposals"]] == [-0.5] * 4
    assert [proposal["text"].split("@")[0] for proposal in trace["proposals"]][:3] == ["one", "two", "three"]
    for body, param in (({}, "messages"), ({"messages": []}, "messages"), ({"messages": ASKED, "n": 3}, "n")):
        refused = http.post("/v1/moa/desk/try", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_recipes_are_added_listed_shown_and_changed(http: httpx.Client, trio: Trio) -> None:
    text = recipe(summary="three and the base")
    stored = add(http, text)
    assert (stored["id"], stored["state"], stored["yaml"]) == ("moa/desk", "draft", text)
    assert stored["sealed"]["layers"][0]["proposers"][0] == {"adapter": trio[0].digest}
    add(http, recipe(name="other"))
    listed = http.get("/v1/moa").json()["data"]
    assert [(one["name"], one["state"]) for one in listed] == [("desk", "draft"), ("other", "draft")]
    assert http.get("/v1/moa/desk").json() == stored
    assert http.get("/v1/moa/nobody").status_code == 404
    assert add(http, recipe("select"))["digest"] != stored["digest"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "holds no recipe"),
        ({"yaml": 3}, 400, "holds no recipe"),
        ({"yaml": "name: [", "x": 1}, 400, "holds no recipe"),
        ({"yaml": "name: ["}, 400, "not YAML"),
        ({"yaml": recipe("guess")}, 400, "aggregator"),
        ({"yaml": recipe(proposers=[{"adapter": "nobody"}])}, 404, "no such adapter"),
        ({"yaml": recipe(proposers=[{"upstream": "dead", "model": "m"}])}, 404, "No upstream of this name"),
        ({"yaml": recipe(proposers=[{"recipe": "desk"}])}, 400, "asks itself"),
        ({"yaml": recipe(proposers=[{"recipe": "other"}])}, 404, "no such recipe"),
    ],
)
def test_a_recipe_that_cannot_be_added(http: httpx.Client, trio: Trio, body: Any, status: int, words: str) -> None:
    answer = http.post("/v1/moa", json=body)
    assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text
    assert http.get("/v1/moa").json()["data"] == []


def test_projects_and_keys_are_kept_apart(http: httpx.Client, service: Service, trio: Trio) -> None:
    go_live(http, recipe())
    other = {"x-api-key": keys.create("other", "test")}
    assert httpx.get(f"{service.url}/v1/moa", headers=other).json()["data"] == []
    for method, path in (("GET", "/v1/moa/desk"), ("POST", "/v1/moa/desk/disable"), ("POST", "/v1/moa/desk/try")):
        body = {"messages": ASKED} if path.endswith("try") else None
        assert httpx.request(method, service.url + path, headers=other, json=body).status_code == 404
        assert httpx.request(method, service.url + path, json=body).status_code == 401
    body = {"model": "moa/desk", "messages": ASKED}
    asked = httpx.post(f"{service.url}/v1/chat/completions", headers=other, json=body)
    assert asked.status_code == 404


def test_feedback_finds_the_recipe_behind_an_answer(client: openai.OpenAI, http: httpx.Client, trio: Trio) -> None:
    stored = go_live(http, recipe())
    whole = ask(client).id
    streamed = next(iter(ask(client, stream=True))).id
    for completion in (whole, streamed):
        kept = http.post("/v1/feedback", json={"completion": completion, "rating": -1}).json()
        assert (kept["requested"], kept["chosen"]) == ("moa/desk", stored["digest"])
    assert events.find("default", whole, "route") is not None
    assert feedback.tallies("default") == {}, "a recipe's feedback moves no route of `auto`"


def test_an_upstream_that_is_this_service_does_not_go_round(
    client: openai.OpenAI, http: httpx.Client, service: Service, trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = {"mirror": {"url": service.url, "key": service.key}}
    monkeypatch.setenv("MOATELIER_UPSTREAMS", json.dumps(endpoints))
    settings.cache_clear()
    go_live(http, recipe(proposers=[{"upstream": "mirror", "model": "moa/desk"}, {"base": True}]))
    answer = ask(client)
    assert answer.choices[0].message.content == f"{BASE}: where is it"
    calls = answer.model_extra["moatelier"]["calls"]  # type: ignore[index]
    assert [call["error"] for call in calls] == ["invalid_request", ""]
