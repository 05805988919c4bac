"""`/metrics`: what is counted, under which labels, and that no client can make up labels."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api import metrics as counted
from api.app import create_app
from moatelier.errors import MoatelierError
from serving import watching
from store import keys
from tests.api import fake_engine
from tests.api.conftest import Service, make_adapter
from tests.api.running import running

SECRET = "xyzzy-nobody-may-read-this"


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(http: httpx.Client, name: str, **labels: str) -> float:
    found = families(http.get("/metrics").text)[name.removesuffix("_total")]
    return sum(
        sample.value
        for sample in found.samples
        if sample.name == name and all(sample.labels[key] == told for key, told in labels.items())
    )


def ask(
    http: httpx.Client, model: str = "smollm2-135m-instruct", words: str = "hello", **more: object
) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": words}], **more}
    return http.post("/v1/chat/completions", json=body)


def test_it_takes_a_key(service: Service) -> None:
    assert httpx.get(f"{service.url}/metrics").status_code == 401


def test_requests_are_counted_by_route_template_and_status(service: Service, http: httpx.Client) -> None:
    route = {"method": "GET", "route": "/v1/files/{file_id}", "status": "404"}
    before = value(http, "moatelier_http_requests_total", **route)
    for name in ("file-1", "file-2"):
        http.get(f"/v1/files/{name}")
    assert value(http, "moatelier_http_requests_total", **route) == before + 2


def test_decisions_tokens_and_feedback_are_counted(service: Service, http: httpx.Client, client: openai.OpenAI) -> None:
    record = make_adapter()
    names = ("moatelier_route_decisions_total", "moatelier_tokens_total", "moatelier_feedback_total")
    before = [value(http, name) for name in names]
    exact = value(http, names[0], reason="exact")
    whole = ask(http, record.model_id).json()
    messages = [{"role": "user", "content": "one two"}]
    for _ in client.chat.completions.create(
        model=record.model_id,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},  # type: ignore[call-overload]
    ):
        pass
    http.post("/v1/feedback", json={"completion": whole["id"], "rating": 1, "comment": SECRET}).raise_for_status()
    after = [value(http, name) for name in names]
    assert value(http, names[0], reason="exact") == exact + 2
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 5 + 6, 2]


def test_nothing_that_a_client_says_becomes_a_label(service: Service, http: httpx.Client) -> None:
    """Neither in paths, methods, headers, models, nor in what is said: the number of series does not grow."""

    def round(number: int) -> None:
        word = f"{SECRET}-{number}"
        http.get(f"/{word}")
        http.request("BREW", f"/v1/files/{word}")
        http.get(f"/adapters/{word}/card", headers={"x-request-id": word, "user-agent": word})
        ask(http, word, word)
        ask(http, words=word, user=word)
        http.post("/v1/feedback", json={"completion": word, "label": word})

    def series() -> set[str]:
        return set(re.findall(r"^(moatelier_\S+?(?:\{.*?\})?) ", http.get("/metrics").text, re.M))

    series()
    round(0)
    first = series()
    for number in range(1, 5):
        round(number)
    assert series() == first
    assert not any("xyzzy" in one for one in first)


def test_labels_are_the_ones_that_are_closed() -> None:
    """A new label has to be thought about: it must have an end, and name nobody."""
    allowed = {"method", "route", "status", "reason", "kind", "way", "extent", "outcome", "role", "version", "limit"}
    for registry in (counted.REGISTRY, watching.metrics.REGISTRY):
        for family in registry.collect():
            for sample in family.samples:
                assert sample.labels.keys() - {"le"} <= allowed | {"event", "modality", "base"}, sample.name


def test_names_are_in_base_units() -> None:
    for registry in (counted.REGISTRY, watching.metrics.REGISTRY):
        for family in registry.collect():
            assert not re.search(r"_(ms|millis|milliseconds|minutes|kb|mb|percent)\b", family.name)
            if family.type == "counter":
                assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples), family.name


@pytest.fixture
def counting(home: Path) -> Iterator[httpx.Client]:
    """A service whose engine tells what the real one tells, and whose worker has written something down."""
    app = fake_engine.create(fake_engine.Engine())
    watching.add_routes(app, dict)
    (home / "worker.prom").write_text("# TYPE moatelier_worker_x gauge\nmoatelier_worker_x 3\n")
    headers = {"x-api-key": keys.ensure_admin()}
    with (
        running(app) as engine,
        running(create_app(engine)) as url,
        httpx.Client(base_url=url, headers=headers) as made,
    ):
        yield made


def test_engine_and_worker_are_told_beside(counting: httpx.Client) -> None:
    assert value(counting, "moatelier_worker_x") == 3
    assert "moatelier_engine_time_to_first_token_seconds" in families(counting.get("/metrics").text)
    assert value(counting, "moatelier_up", role="engine") == value(counting, "moatelier_up", role="worker") == 1


def test_the_whole_is_one_exposition(counting: httpx.Client) -> None:
    """No family twice, though three processes tell theirs."""
    told = re.findall(r"^# TYPE (\S+)", counting.get("/metrics").text, re.M)
    assert len(told) == len(set(told)) > 20


def test_a_silent_part_is_left_out(service: Service, http: httpx.Client) -> None:
    """The fake engine tells nothing, and no worker has written anything."""
    assert value(http, "moatelier_up", role="engine") == value(http, "moatelier_up", role="worker") == 0
    assert value(http, "moatelier_http_requests_total") > 0


def test_error_codes_are_words_that_fit_a_label() -> None:
    pending, codes = [MoatelierError], set()
    while pending:
        kind = pending.pop()
        codes.add(kind.code)
        pending += kind.__subclasses__()
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
