"""API keys: the secret is shown once and never kept."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from moatelier.contracts import now
from moatelier.errors import Conflict, NotFound
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


def test_a_key_may_what_its_scopes_say(store: Path) -> None:
    key = keys.check(keys.create("p", "k", scopes=["infer"]))
    assert key is not None and key.may(["infer", "read"]) and not key.may(["read", "train"]) and not key.may(["admin"])
    admin = keys.check(keys.create("p", "k", scopes=["admin"]))
    assert admin is not None and admin.may(["infer"]) and admin.may([])


def test_a_key_that_has_expired_opens_nothing(store: Path) -> None:
    assert keys.check(keys.create("p", "k", expires_at=now() + timedelta(hours=1))) is not None
    assert keys.check(keys.create("p", "k", expires_at=now() - timedelta(seconds=1))) is None
    assert [key.live for key in keys.list_keys("p")] == [True, False]


def test_rotating_ends_the_old_secret_at_once(store: Path) -> None:
    first = keys.create("p", "k", scopes=["read"], requests_per_minute=5)
    before = keys.check(first)
    assert before is not None
    second = keys.rotate("p", before.id)
    assert keys.check(first) is None and keys.check(second) == before
    assert [line.action for line in audit.read("p")] == ["key.create", "key.rotate"]


def test_rotating_with_a_grace_leaves_the_old_secret_for_a_while(store: Path) -> None:
    first = keys.create("p", "k")
    (key,) = keys.list_keys("p")
    second = keys.rotate("p", key.id, grace_s=3600)
    assert keys.check(first) == keys.check(second) is not None
    third = keys.rotate("p", key.id, grace_s=3600)
    assert keys.check(first) is None, "only the last one has a grace"
    assert keys.check(second) is not None and keys.check(third) is not None
    keys.revoke("p", key.id)
    assert [keys.check(secret) for secret in (first, second, third)] == [None] * 3


def test_what_cannot_be_rotated(store: Path) -> None:
    keys.create("p", "k")
    (key,) = keys.list_keys("p")
    with pytest.raises(NotFound):
        keys.rotate("other", key.id)
    keys.revoke("p", key.id)
    with pytest.raises(Conflict):
        keys.rotate("p", key.id)


def test_the_file_of_the_first_key_follows_its_rotation(store: Path) -> None:
    first = keys.ensure_admin()
    (key,) = keys.list_keys("default")
    second = keys.rotate("default", key.id)
    assert (store / "keys" / "admin.key").read_text() == second == keys.ensure_admin()
    assert keys.check(first) is None and len(keys.list_keys("default")) == 1
