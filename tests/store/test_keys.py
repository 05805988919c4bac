"""API keys: the secret is shown once and never kept."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from moatelier.errors import NotFound
from store import audit, db, keys
from store.tables import KeyRow


def test_a_key_opens_its_project(store: Path) -> None:
    secret = keys.create("p", "laptop")
    assert secret.startswith("mo-") and len(secret) > 40
    key = keys.check(secret)
    assert key is not None and (key.project, key.name) == ("p", "laptop")
    for wrong in ("", "mo-", secret[:-1], secret + "x", "mo-\ud800"):
        assert keys.check(wrong) is None


def test_the_secret_is_nowhere_in_the_store(store: Path) -> None:
    secret = keys.create("p", "laptop")
    with db.reading() as opened:
        row = opened.scalars(select(KeyRow)).one()
        assert secret not in str(vars(row))
    assert secret not in str(audit.read("p"))


def test_a_revoked_key_opens_nothing(store: Path) -> None:
    secret = keys.create("p", "laptop")
    (key,) = keys.list_keys("p")
    with pytest.raises(NotFound):
        keys.revoke("other", key.id)
    keys.revoke("p", key.id)
    keys.revoke("p", key.id)
    assert keys.check(secret) is None
    assert keys.list_keys("p")[0].revoked_at is not None
    assert [line.action for line in audit.read("p")] == ["key.create", "key.revoke"]


def test_the_first_start_makes_an_admin_key(store: Path) -> None:
    secret = keys.ensure_admin()
    path = store / "keys" / "admin.key"
    assert path.read_text() == secret and path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    key = keys.check(secret)
    assert key is not None and (key.project, key.name) == ("default", "admin")
    assert keys.ensure_admin() == secret
    assert len(keys.list_keys("default")) == 1


def test_a_start_that_died_half_way_is_mended(store: Path) -> None:
    secret = keys.ensure_admin()
    with db.session() as opened:
        opened.execute(delete(KeyRow))
    assert keys.ensure_admin() == secret
    assert keys.check(secret) is not None


def test_a_revoked_admin_key_is_replaced(store: Path) -> None:
    old = keys.ensure_admin()
    keys.revoke("default", keys.list_keys("default")[0].id)
    new = keys.ensure_admin()
    assert new != old and keys.check(new) is not None and keys.check(old) is None


def test_two_starts_at_once_make_one_admin_key(store: Path) -> None:
    secrets: list[str] = []
    threads = [threading.Thread(target=lambda: secrets.append(keys.ensure_admin())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 4 and len(set(secrets)) == 1
    assert len(keys.list_keys("default")) == 1
