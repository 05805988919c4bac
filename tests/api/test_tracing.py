"""Traces: from the request through its route, the layers of a recipe and the calls to the engine. No words in them."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from moatelier import genai
from tests.api.conftest import Service, make_adapter
from tests.api.running import wait_until
from tests.api.test_auto import Pair
from tests.api.test_auto import pair as pair
from tests.api.test_mixtures import Trio, go_live, recipe
from tests.api.test_mixtures import trio as trio
from tests.tracing import Spans, recorded

SERVER = "POST /v1/chat/completions"
SAID = "where is the parcel xyzzy"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recorded() as found:
        yield found


def ask(http: httpx.Client, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": SAID}], **more}
    answer = http.post("/v1/chat/completions", json=body, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    answer.raise_for_status()
    return answer


def words(spans: Spans) -> str:
    return "".join(span.to_json() for span in spans.all)


def test_a_routed_request_is_one_trace_from_the_client_to_the_engine(
    spans: Spans, http: httpx.Client, pair: Pair
) -> None:
    answer = ask(http, "auto")
    wait_until(lambda: len(spans.named(SERVER)) == 2)  # the api's, and below it the fake engine's
    [route] = spans.named("route")
    [call] = [span for span in spans.all if span.name.startswith("chat ")]
    [engine] = [span for span in spans.named(SERVER) if spans.parent_name(span) == call.name]
    [api] = [span for span in spans.named(SERVER) if span is not engine]
    assert spans.parent_name(route) == spans.parent_name(call) == SERVER
    assert {f"{span.context.trace_id:032x}" for span in (api, route, call, engine)} == {TRACE}
    assert route.attributes[genai.ROUTE_REASON] == "auto"
    assert route.attributes[genai.RESPONSE_MODEL] == pair[0].model_id
    assert call.attributes[genai.OPERATION] == "chat" and call.attributes[genai.OUTPUT_TOKENS] == 2
    assert api.attributes["http.route"] == "/v1/chat/completions"
    assert api.attributes[genai.REQUEST_ID] == answer.headers["x-request-id"]
    assert api.attributes[genai.INPUT_TOKENS] == 3


def test_a_recipe_shows_each_call_with_its_layer(spans: Spans, http: httpx.Client, trio: Trio) -> None:
    go_live(http, recipe({"kind": "synthesis", "base": True}, proposers=[{"adapter": "a"}, {"adapter": "b"}]))
    ask(http, "moa/desk")
    wait_until(lambda: spans.named("recipe desk"))
    [whole] = spans.named("recipe desk")
    calls = spans.named("proposal")
    assert sorted(call.attributes[genai.LAYER] for call in calls) == [0, 0, 1]
    assert {spans.parent_name(call) for call in calls} == {"recipe desk"}
    assert whole.attributes[genai.WAY] == "synthesis"
    assert whole.attributes[genai.OUTPUT_TOKENS] == 6


def test_what_was_said_is_in_no_span(spans: Spans, service: Service, http: httpx.Client, trio: Trio) -> None:
    go_live(http, recipe())
    record = make_adapter()
    for model in (record.model_id, "moa/desk", "smollm2-135m-instruct"):
        ask(http, model)
        ask(http, model, stream=True)
    with pytest.raises(httpx.HTTPStatusError):
        ask(http, "nobody-xyzzy")
    wait_until(lambda: len(spans.named(SERVER)) >= 7)
    told = words(spans)
    assert "xyzzy" not in told and service.key not in told


def test_a_failed_call_is_marked_by_its_code(spans: Spans, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="smollm2-135m-instruct", messages=[{"role": "user", "content": "refuse"}])
    [call] = [span for span in spans.all if span.name.startswith("chat ")]
    assert call.attributes["error.type"] == "invalid_request" and not call.events
