"""Settings that cannot be used say which, and never what they hold: it may be a key."""

from collections.abc import Iterator

import pytest

from moatelier.errors import InvalidRequest
from moatelier.settings import settings

KEY = "sk-not-for-anyone"


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_upstreams_are_read_and_their_keys_are_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    value = (
        f'{{"big": {{"url": "https://big/v1", "key": "{KEY}"}}, "other": {{"url": "http://o", "key_env": "OTHER"}}}}'
    )
    monkeypatch.setenv("MOATELIER_UPSTREAMS", value)
    big, other = settings().upstreams["big"], settings().upstreams["other"]
    assert big.secret is not None and big.secret.get_secret_value() == KEY
    assert KEY not in repr(settings()) + str(settings()) + settings().model_dump_json()
    with pytest.raises(InvalidRequest, match="OTHER"):
        _ = other.secret
    monkeypatch.setenv("OTHER", KEY)
    assert other.secret is not None and other.secret.get_secret_value() == KEY


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("UPSTREAMS", f'{{"big": "{KEY}"', ["MOATELIER_UPSTREAMS", "not JSON"]),
        ("UPSTREAMS", f'{{"big": {{"url": 3, "key": "{KEY}"}}}}', ["MOATELIER_UPSTREAMS.big.url"]),
        ("UPSTREAMS", f'{{"big": {{"url": "ftp://x", "key": "{KEY}"}}}}', ["MOATELIER_UPSTREAMS.big.url"]),
        ("UPSTREAMS", f'{{"big": {{"url": "http://x", "kee": "{KEY}"}}}}', ["MOATELIER_UPSTREAMS.big.kee"]),
        ("UPSTREAMS", f'{{"big": {{"url": "http://x", "key": ["{KEY}"]}}}}', ["MOATELIER_UPSTREAMS.big.key"]),
        ("ROUTER_EXPLORE", "2", ["MOATELIER_ROUTER_EXPLORE", "less than or equal to 1"]),
    ],
)
def test_what_cannot_be_used(name: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MOATELIER_{name}", value)
    with pytest.raises(InvalidRequest) as caught:
        settings()
    assert all(word in str(caught.value) for word in words)
    assert KEY not in str(caught.value) and caught.value.__cause__ is None


def test_tokens_for_anybody_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty audience would be no check."""
    monkeypatch.setenv("MOATELIER_OIDC_AUDIENCE", "")
    settings.cache_clear()
    with pytest.raises(InvalidRequest, match="OIDC_AUDIENCE"):
        settings()
    settings.cache_clear()
