"""Requests and tokens a minute: counted exactly, told in headers, and cheap."""

from typing import Any

import httpx
import openai
import pytest

from api import guard
from api.auth import Callers
from api.limits import Bucket, Limits, Meter
from moatelier.errors import MoatelierError, RateLimited
from moatelier.settings import settings
from store import keys
from tests.api.conftest import Service
from tests.api.fake_engine import BASE
from tests.api.running import wait_until

ASKED: list[Any] = [{"role": "user", "content": "hello there"}]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key_of(secret: str) -> keys.Key:
    found = keys.check(secret)
    assert found is not None
    return found


def test_a_bucket_empties_and_fills_evenly() -> None:
    bucket = Bucket(60, 0.0)
    for _ in range(60):
        assert bucket.wait(1, 0.0) <= 0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0) and bucket.left == 0 and bucket.full_in == "1m0s"
    assert bucket.wait(1, 0.75) == pytest.approx(0.25)
    assert bucket.wait(1, 1.0) <= 0 and bucket.left == 1
    assert bucket.wait(1, 1000.0) <= 0 and bucket.left == 60 and bucket.full_in == "0ms"


def test_what_was_under_way_may_go_below_nothing_and_is_waited_for(home: Any) -> None:
    clock = Clock()
    limits, key = Limits(clock), key_of(keys.create("p", "k", tokens_per_minute=600))
    limits.admit(key, asks=True)
    limits.spend(key, 700)
    with pytest.raises(RateLimited) as caught:
        limits.admit(key, asks=True)
    assert caught.value.retry_after_s == pytest.approx(10.1)
    assert limits.admit(key, asks=False), "looking at things costs no tokens"
    clock.now = 10.2
    limits.admit(key, asks=True)


def test_a_key_without_limits_is_told_nothing(home: Any) -> None:
    limits, key = Limits(), key_of(keys.create("p", "k"))
    assert all(limits.admit(key, asks=True) == [] for _ in range(1000))


def test_the_settings_hold_for_keys_without_numbers_of_their_own(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_REQUESTS_PER_MINUTE", "1")
    settings.cache_clear()
    limits = Limits(Clock())
    for secret, most in ((keys.create("p", "k"), 1), (keys.create("p", "k", requests_per_minute=3), 3)):
        for _ in range(most):
            limits.admit(key_of(secret), asks=False)
        with pytest.raises(RateLimited):
            limits.admit(key_of(secret), asks=False)
    free = key_of(keys.create("p", "k", requests_per_minute=0))
    assert all(limits.admit(free, asks=True) == [] for _ in range(10))


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        ([b'{"usage": {"prompt_tokens": 3, "total_tokens": 5}}'], 5),
        ([b'{"text": "\\"total_tokens\\": 999", "usage":{"total_tokens":7}}'], 7),
        ([b'data: {"choices":[{"delta":{"content":"a"}}]}', b'data: {"choices":[{"delta":{"content":"b"}}]}'], 2),
        ([b'data: {"choices":[{"delta":{"content":"a"}}]}', b'data: {"usage":{"total_tokens":40}}'], 40),
        ([b'{"moatelier":{"calls":[{}],"tokens":{"prompt":30,"completion":12},"milliseconds":1}}'], 42),
        ([b""], 0),
    ],
)
def test_what_an_answer_cost_is_read_off_it(pieces: list[bytes], tokens: int) -> None:
    meter = Meter()
    for piece in pieces:
        meter.read(piece)
    assert meter.tokens == tokens


def left_of(service: Service, secret: str) -> int:
    answer = httpx.get(f"{service.url}/v1/models", headers={"x-api-key": secret})
    return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_early_pays_for_the_prompt(service: Service, stream: bool) -> None:
    secret = keys.create("default", "k", tokens_per_minute=10_000)
    long: list[Any] = [{"role": "system", "content": "x" * 40_000}, {"role": "user", "content": "slow"}]
    body = {"model": BASE, "messages": long, "stream": stream}
    with httpx.Client(base_url=service.url, headers={"x-api-key": secret}, timeout=0.5 if not stream else 20) as client:
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body)
    wait_until(lambda: service.engine.hung_up == 1)
    assert left_of(service, secret) < 5_000


def test_a_prompt_is_charged_while_it_is_answered_and_not_when_it_is_refused(service: Service) -> None:
    secret = keys.create("default", "k", tokens_per_minute=10_000)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 40_000}]}
    with httpx.Client(base_url=service.url, headers={"x-api-key": secret}, timeout=20) as client:
        assert client.post("/v1/chat/completions", json={**asked, "model": "none"}).status_code == 404
        assert left_of(service, secret) > 9_900
        slow = {"model": BASE, "stream": True, "messages": [*asked["messages"], {"role": "user", "content": "slow"}]}
        with client.stream("POST", "/v1/chat/completions", json=slow):
            assert left_of(service, secret) < 5_000


def test_models_cost_tokens_by_whatever_route_they_are_asked(service: Service) -> None:
    secret = keys.create("default", "k", tokens_per_minute=60)
    judge = {"type": "score_model", "name": "j", "model": BASE, "input": [{"role": "user", "content": "x" * 200}]}
    body = {"grader": judge, "model_sample": "x"}
    headers = {"x-api-key": secret}
    answer = httpx.post(f"{service.url}/v1/fine_tuning/alpha/graders/run", json=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    assert left_of(service, secret) < 60


def test_the_openai_client_sees_limits_and_waits(service: Service) -> None:
    secret = keys.create("default", "k", requests_per_minute=2, tokens_per_minute=1000)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=secret, max_retries=0) as client:
        first = client.chat.completions.with_raw_response.create(model=BASE, messages=ASKED)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        assert first.headers["x-ratelimit-remaining-tokens"] == "1000"
        second = client.chat.completions.with_raw_response.create(model=BASE, messages=ASKED)
        assert int(second.headers["x-ratelimit-remaining-tokens"]) == 995
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert caught.value.code == "rate_limit_exceeded"
    answer = caught.value.response
    assert 29_000 < int(answer.headers["retry-after-ms"]) <= 30_000 and answer.headers["retry-after"] == "30"
    assert "x-should-retry" not in answer.headers


def test_a_stream_costs_what_the_engine_says_though_its_client_does_not_ask(service: Service) -> None:
    secret = keys.create("default", "k", tokens_per_minute=1000)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=secret, max_retries=0) as client:
        chunks = list(client.chat.completions.create(model=BASE, messages=ASKED, stream=True))
        assert all(chunk.choices for chunk in chunks) and all(chunk.usage is None for chunk in chunks)
        asking = {"include_usage": True}
        told = list(client.chat.completions.create(model=BASE, messages=ASKED, stream=True, stream_options=asking))
        assert told[-1].usage is not None and told[-1].usage.total_tokens == 6
        after = client.models.with_raw_response.list()
    assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - 2 * 6


def test_wrong_keys_from_an_address_are_counted_and_good_ones_still_pass(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_WRONG_KEYS_PER_MINUTE", "5")
    settings.cache_clear()
    guessed = [httpx.get(f"{service.url}/v1/models", headers={"x-api-key": f"mo-{n}"}).status_code for n in range(8)]
    assert guessed == [401] * 5 + [429] * 3
    assert http.get("/v1/models").status_code == 200
    new = httpx.get(f"{service.url}/v1/models", headers={"x-api-key": keys.create("default", "new")})
    assert new.status_code == 200, "the guesses of others behind the same proxy are not its fault"
    wrong = httpx.get(f"{service.url}/v1/models", headers={"x-api-key": "mo-9"})
    assert wrong.status_code == 429 and int(wrong.headers["retry-after"]) >= 1


def test_a_key_that_is_revoked_is_shut_out_at_once(service: Service, http: httpx.Client) -> None:
    made = http.post("/v1/admin/keys", json={"name": "passing", "scopes": ["read"]}).json()
    headers = {"x-api-key": made["secret"]}
    for _ in range(20):
        assert httpx.get(f"{service.url}/tasks", headers=headers).status_code == 200
    assert http.delete(f"/v1/admin/keys/{made['id']}").json()["live"] is False
    assert httpx.get(f"{service.url}/tasks", headers=headers).status_code == 401


def test_a_stream_outlives_a_moment_without_the_store(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []

    async def fail(self: Callers, secret: str) -> None:
        failed.append(secret)
        raise MoatelierError("The store failed.")

    body = {"model": BASE, "messages": [{"role": "user", "content": "slow"}], "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_text()
        next(pieces)
        monkeypatch.setattr(Callers, "find", fail)
        while len(failed) < 3:
            next(pieces)
        monkeypatch.setattr(guard, "GRACE_S", 0.0)
        assert "event: error" in "".join(pieces)


def test_a_stream_ends_when_its_key_is_revoked(service: Service, http: httpx.Client) -> None:
    made = http.post("/v1/admin/keys", json={"name": "passing", "scopes": ["infer"]}).json()
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=made["secret"], max_retries=0) as client:
        said: list[Any] = [{"role": "user", "content": "slow"}]
        stream = client.chat.completions.create(model=BASE, messages=said, stream=True)
        next(stream)
        http.delete(f"/v1/admin/keys/{made['id']}")
        with pytest.raises(openai.APIError, match="revoked"):
            for _ in stream:
                pass
    wait_until(lambda: service.engine.hung_up == 1)
