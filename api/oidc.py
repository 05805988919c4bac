"""Bearer tokens of an OpenID Connect issuer (RFC 7519, RFC 7517), as keys that live as long as the token says.

Only an issuer that the settings name is ever asked, and only for its public keys. A token cannot name a project: the
settings map values of one of its claims to projects and scopes.
"""

import json
import logging
import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from moatelier.contracts import now
from moatelier.errors import UpstreamError
from moatelier.ids import digest_json
from moatelier.scopes import SCOPES
from moatelier.settings import settings
from store.keys import Key

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
"""Signatures by a private key alone: neither `none` nor a secret that both sides share."""
LEEWAY_S = 30
FRESH_S, AGAIN_S, FAILED_S = 600.0, 30.0, 5.0
"""Public keys are read anew after this long; because of a token that they do not verify, at most this often; after they
could not be had, not before that."""
OLDEST_S = 3600.0
"""Keys that could not be read anew for this long are not believed any more: the issuer may have withdrawn them."""
FETCH_S = 10.0
"""A document of the issuer must be there by then."""
LONGEST = 8192
"""Characters of a token."""
DISCOVERY = "/.well-known/openid-configuration"
MOST_BYTES = 1_000_000
_WEB = ("http://", "https://")
log = logging.getLogger("moatelier.api")


class Issuer:
    """The issuer that the settings name, with what is known of its keys."""

    def __init__(self) -> None:
        self._keys: KeySet | None = None
        self._read_at = self._failed_at = -math.inf
        self._reading = threading.Lock()

    def check(self, token: str) -> Key | None:
        """What a token grants (blocking); None when it is forged, over, for somebody else, or grants nothing.

        Raises:
            UpstreamError: The issuer's keys cannot be had.
        """
        if len(token) > LONGEST:
            return None
        claims = self._verified(token)
        return None if claims is None else _granted(claims)

    def _verified(self, token: str) -> dict[str, Any] | None:
        for age in (FRESH_S, AGAIN_S):  # the second time with newer keys, if there may be newer ones
            try:
                claims = jwt.decode(token, self._known(age), algorithms=ALGORITHMS).claims
                _rules().validate(claims)
            except (JoseError, ValueError, TypeError):
                continue
            return dict(claims)
        return None

    def _known(self, age_s: float) -> KeySet:
        now_s = time.monotonic()
        if now_s - self._read_at > age_s and now_s - self._failed_at > FAILED_S:
            # One asks at a time, and nobody waits for it: made-up tokens must not hold up every thread there is.
            if self._reading.acquire(blocking=False):
                try:
                    self._keys = KeySet.import_key_set(_jwks())
                    self._read_at = time.monotonic()
                except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, JoseError):
                    self._failed_at = time.monotonic()
                    log.warning("the keys of the OpenID Connect issuer could not be had")
                finally:
                    self._reading.release()
        if self._keys is None or time.monotonic() - self._read_at > OLDEST_S:
            raise UpstreamError("The issuer's keys cannot be had yet.", where="MOATELIER_OIDC_JWKS")
        return self._keys


def _rules() -> jwt.JWTClaimsRegistry:
    issuer = str(settings().oidc_issuer)
    return jwt.JWTClaimsRegistry(
        leeway=LEEWAY_S,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": settings().oidc_audience},
        sub={"essential": True},
        exp={"essential": True},
    )


def _jwks() -> Any:
    place = settings().oidc_jwks
    if place is None:
        return _fetched(_discovered(str(settings().oidc_issuer)))
    return _fetched(place) if place.startswith(_WEB) else json.loads(Path(place).read_text())


def _discovered(issuer: str) -> str:
    """Where the issuer says that its keys lie: an address, never a file of ours. Raises ValueError."""
    told = _fetched(f"{issuer.rstrip('/')}{DISCOVERY}")
    if told["issuer"] != issuer:  # OpenID Connect Discovery 1.0, 4.3
        raise ValueError("the document is another issuer's")
    if not told["jwks_uri"].startswith(_WEB):
        raise ValueError("the keys lie at no address")
    return str(told["jwks_uri"])


def _fetched(url: str) -> Any:
    deadline = time.monotonic() + FETCH_S
    with httpx.stream("GET", url, timeout=5, follow_redirects=False) as answer:
        answer.raise_for_status()
        body = b""
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > MOST_BYTES or time.monotonic() > deadline:
                raise ValueError("too long")
    return json.loads(body)


def _granted(claims: dict[str, Any]) -> Key | None:
    """The first value that a grant is set for decides on the project; further grants of it add their scopes."""
    values = claims.get(settings().oidc_claim, [])
    values = [values] if isinstance(values, str) else values
    named = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
    grants = [settings().oidc_grants[value] for value in named if value in settings().oidc_grants]
    if not grants:
        return None
    project = grants[0].project
    scopes = {scope for grant in grants if grant.project == project for scope in grant.scopes}
    who = digest_json([claims["iss"], claims["sub"]])[:12]
    return Key(
        id=f"oidc-{who}",
        project=project,
        name=str(claims["sub"])[:80],
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        created_at=now(),
        expires_at=datetime.fromtimestamp(float(claims["exp"]) + LEEWAY_S, UTC),
    )
