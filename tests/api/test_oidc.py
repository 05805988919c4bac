"""Tokens of an OpenID Connect issuer that runs beside us: which are let in, as whom, and which are not."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from api import oidc
from api.app import create_app
from moatelier.settings import settings
from store import audit
from tests.api import fake_engine
from tests.api.running import running

RSA = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})
GRANTS = {
    "readers": {"project": "default", "scopes": ["read"]},
    "askers": {"project": "default", "scopes": ["infer"]},
    "elsewhere": {"project": "other", "scopes": ["read", "train"]},
}


class Provider:
    """Public keys and where they lie; counts who asks for them."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSA]
        self.asked = 0
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route(oidc.DISCOVERY, self.discovery)
        self.app.add_api_route("/keys", self.jwks)
        self.url = ""
        self.told: dict[str, str] = {}

    def discovery(self) -> dict[str, str]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.told

    def jwks(self) -> Any:
        self.asked += 1
        return KeySet(self.keys).as_dict(private=False)


@pytest.fixture
def provider(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    made = Provider()
    with running(made.app) as made.url:
        monkeypatch.setenv("MOATELIER_OIDC_ISSUER", made.url)
        monkeypatch.setenv("MOATELIER_OIDC_GRANTS", json.dumps(GRANTS))
        settings.cache_clear()
        yield made


@pytest.fixture
def http(provider: Provider) -> Iterator[httpx.Client]:
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        with httpx.Client(base_url=url, timeout=20) as client:
            yield client


def token(provider: Provider, key: Any = RSA, alg: str = "RS256", **changes: Any) -> str:
    claims = {"iss": provider.url, "aud": "moatelier", "sub": "ann", "exp": int(time.time()) + 600}
    claims |= {"groups": ["staff", "readers"]}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    header = {"alg": alg} | ({"kid": key.kid} if key.kid else {})
    return jwt.encode(header, claims, key, algorithms=[alg])


def get(http: httpx.Client, path: str, bearer: str) -> httpx.Response:
    return http.get(path, headers={"authorization": f"Bearer {bearer}"})


def test_a_token_opens_what_its_grant_says(http: httpx.Client, provider: Provider) -> None:
    good = token(provider)
    assert get(http, "/tasks", good).status_code == 200
    assert get(http, "/v1/admin/keys", good).status_code == 403
    both = token(provider, groups=["readers", "askers", "elsewhere"])
    body = {"model": fake_engine.BASE, "messages": [{"role": "user", "content": "x"}]}
    asked = {"authorization": f"Bearer {both}"}
    assert http.post("/v1/chat/completions", json=body, headers=asked).status_code == 200
    assert http.post("/threads", json={}, headers=asked).status_code == 403, "a scope of another project does not count"
    other = {"authorization": f"Bearer {token(provider, groups='elsewhere')}"}
    made = http.post("/threads", json={}, headers=other).json()["thread_id"]
    assert get(http, f"/threads/{made}", good).status_code == 404
    [line] = [line for line in audit.read("other") if line.action == "request"]
    assert line.actor.startswith("oidc-")
    assert provider.asked == 1, "its keys are remembered"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"sub": None},
        {"iss": None},
        {"aud": None},
        {"nbf": 99_999_999_999},
        {"groups": ["staff"]},
        {"groups": None},
        {"groups": {"readers": True}},
        {"groups": [["readers"], 1]},
    ],
    ids=str,
)
def test_a_token_for_somebody_else_opens_nothing(http: httpx.Client, provider: Provider, changes: Any) -> None:
    assert get(http, "/tasks", token(provider, **changes)).status_code == 401


def test_a_forged_token_opens_nothing(http: httpx.Client, provider: Provider) -> None:
    forged = [
        token(provider, key=RSAKey.generate_key(2048, {"kid": "one"})),
    ]
    head, body, signature = token(provider).split(".")
    shared = f"{part({'alg': 'HS256', 'kid': 'one'})}.{body}"  # signed with the public key, which everybody has
    digest = hmac.digest(RSA.as_pem(private=False), shared.encode(), "sha256")
    forged.append(f"{shared}.{urlsafe_b64encode(digest).rstrip(b'=').decode()}")
    changed = jwt.encode({"alg": "RS256"}, {"sub": "eve"}, RSA).split(".")[1]
    none = part({"alg": "none", "kid": "one"})
    forged += [f"{head}.{changed}.{signature}", f"{none}.{body}.", f"{head}.{body}.", "a.b.c", f"{head}.{body}.%%%"]
    forged += [f"{head}.{'A' * 20_000}.{signature}"]
    for each in forged:
        assert get(http, "/tasks", each).status_code == 401


def part(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_new_keys_are_found_and_old_ones_forgotten(
    provider: Provider, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(http, "/tasks", token(provider)).status_code == 200
    provider.keys = [EC]
    by_new = token(provider, key=EC, alg="ES256")
    assert get(http, "/tasks", by_new).status_code == 401, "not asked again at once: nobody makes us ask often"
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert get(http, "/tasks", token(provider, key=EC, alg="ES256", sub="bob")).status_code == 200
    assert get(http, "/tasks", token(provider, sub="eve")).status_code == 401


def test_an_issuer_that_is_gone_is_told_and_keys_may_lie_in_a_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_OIDC_ISSUER", "http://127.0.0.1:9/")
    monkeypatch.setenv("MOATELIER_OIDC_GRANTS", json.dumps(GRANTS))
    settings.cache_clear()
    absent = Provider()
    absent.url = "http://127.0.0.1:9/"
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        headers = {"authorization": f"Bearer {token(absent)}"}
        gone = httpx.get(f"{url}/tasks", headers=headers)
        assert gone.status_code == 502 and gone.json()["error"]["code"] == "upstream_error"
        again = [httpx.get(f"{url}/tasks", headers={"authorization": f"Bearer a.{n}.c"}) for n in range(5)]
        assert {answer.status_code for answer in again} == {502}
        monkeypatch.setattr(oidc, "FAILED_S", 0.0)
        file = tmp_path / "jwks.json"
        file.write_text(json.dumps(KeySet([RSA]).as_dict(private=False)))
        monkeypatch.setenv("MOATELIER_OIDC_JWKS", str(file))
        settings.cache_clear()
        assert httpx.get(f"{url}/tasks", headers=headers).status_code == 200


@pytest.mark.parametrize("field", ["issuer", "jwks_uri"])
def test_a_discovery_that_points_elsewhere_is_not_believed(
    provider: Provider, http: httpx.Client, tmp_path: Path, field: str
) -> None:
    mine = tmp_path / "jwks.json"
    mine.write_text(json.dumps(KeySet([RSA]).as_dict(private=False)))
    provider.told = {field: {"issuer": "https://other.example", "jwks_uri": str(mine)}[field]}
    assert get(http, "/tasks", token(provider)).status_code == 502
    assert provider.asked == 0


def test_keys_that_cannot_be_read_anew_are_not_believed_for_ever(
    provider: Provider, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(http, "/tasks", token(provider)).status_code == 200
    provider.told = {"issuer": "https://other.example"}
    for name in ("FRESH_S", "AGAIN_S", "FAILED_S"):
        monkeypatch.setattr(oidc, name, 0.0)
    assert get(http, "/tasks", token(provider, sub="bob")).status_code == 200, "a failing is no end yet"
    monkeypatch.setattr(oidc, "OLDEST_S", 0.0)
    assert get(http, "/tasks", token(provider, sub="eve")).status_code == 502


def test_an_issuer_that_drips_is_not_waited_for(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "FETCH_S", 0.0)
    with pytest.raises(ValueError, match="too long"):
        oidc._fetched(f"{provider.url}{oidc.DISCOVERY}")


def test_without_an_issuer_no_token_is_looked_at(home: Path) -> None:
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        provider = Provider()
        provider.url = "https://id.example"
        assert httpx.get(f"{url}/tasks", headers={"x-api-key": token(provider)}).status_code == 401
