"""`/v1/admin`: keys, projects and the audit log over HTTP and from the command line."""

import json

import httpx
import pytest

from store import audit, keys
from tests.api.conftest import Service
from tests.moatelier.conftest import Command, command, jobs, player

__all__ = ["command", "jobs", "player"]


def test_a_key_is_made_shown_once_and_rotated(service: Service, http: httpx.Client) -> None:
    wanted = {"name": "ann", "scopes": ["read"], "expires_days": 1, "requests_per_minute": 9}
    made = http.post("/v1/admin/keys", json=wanted).json()
    assert made["secret"].startswith("mo-") and made["scopes"] == ["read"] and made["requests_per_minute"] == 9
    listed = http.get("/v1/admin/keys").text
    assert made["id"] in listed and made["secret"] not in listed and "sha256" not in listed
    rotated = http.post(f"/v1/admin/keys/{made['id']}/rotate", json={"grace_s": 60}).json()
    assert rotated["id"] == made["id"] and rotated["secret"] != made["secret"]
    for secret in (made["secret"], rotated["secret"]):
        assert httpx.get(f"{service.url}/tasks", headers={"x-api-key": secret}).status_code == 200
    again = http.post(f"/v1/admin/keys/{made['id']}/rotate", json={}).json()
    answers = [
        httpx.get(f"{service.url}/tasks", headers={"x-api-key": secret}).status_code
        for secret in (made["secret"], rotated["secret"], again["secret"])
    ]
    assert answers == [401, 401, 200], "without a grace both end at once"


@pytest.mark.parametrize(
    "wrong",
    [{}, {"name": ""}, {"name": "a\nb"}, {"name": "x", "scopes": ["root"]}, {"name": "x", "expires_days": -1}]
    + [{"name": "x", "expires_days": 1e300}, {"name": "x", "requests_per_minute": -1}, {"name": "x", "more": 1}],
)
def test_a_key_that_cannot_be_meant(http: httpx.Client, wrong: dict[str, object]) -> None:
    assert http.post("/v1/admin/keys", json=wrong).status_code == 400


def test_a_key_may_have_ended_before_it_is_told(http: httpx.Client) -> None:
    made = http.post("/v1/admin/keys", json={"name": "brief", "expires_days": 1e-323})
    assert made.status_code == 200 and made.json()["live"] is False


def test_projects_are_the_operators_to_make_and_their_own_to_see(service: Service, http: httpx.Client) -> None:
    made = http.post("/v1/admin/projects", json={"id": "shop", "storage_gb": 1}).json()
    assert made["storage_bytes"] == 10**9 and made["key"]["project"] == "shop"
    theirs = {"x-api-key": made["key"]["secret"]}
    assert httpx.post(f"{service.url}/v1/admin/projects", json={"id": "x"}, headers=theirs).status_code == 403
    seen = httpx.get(f"{service.url}/v1/admin/projects", headers=theirs).json()["data"]
    assert [project["id"] for project in seen] == ["shop"]
    assert {project["id"] for project in http.get("/v1/admin/projects").json()["data"]} == {"default", "shop"}
    bob = http.post("/v1/admin/keys", json={"name": "bob", "project": "shop"})
    assert bob.json()["project"] == "shop"
    assert bob.json()["id"] not in http.get("/v1/admin/keys").text, "made, and not seen any more"
    foreign = httpx.post(f"{service.url}/v1/admin/keys", json={"name": "x", "project": "default"}, headers=theirs)
    assert foreign.status_code == 403
    assert http.post("/v1/admin/keys", json={"name": "x", "project": "none"}).status_code == 404


def test_the_audit_log_tells_who_changed_what_and_is_whole(http: httpx.Client) -> None:
    made = http.post("/v1/admin/keys", json={"name": "ann"}).json()
    thread = http.post("/threads", json={}, headers={"x-api-key": made["secret"], "authorization": ""}).json()
    http.post("/threads", json={"metadata": 5})  # refused: no change
    lines = http.get("/v1/admin/audit").json()["data"]
    written = [line for line in lines if line["actor"] == made["id"]]
    assert [(line["action"], line["subject"]) for line in written] == [("request", "/threads")]
    assert written[0]["body"]["made"] == thread["thread_id"] and written[0]["body"]["status"] == 200
    assert [line["action"] for line in lines if line["subject"] == made["id"]] == ["key.create"]
    assert audit.verify() == len(lines)
    rest = http.get("/v1/admin/audit", params={"after": lines[0]["id"], "limit": 1}).json()
    assert [line["id"] for line in rest["data"]] == [lines[1]["id"]] and rest["has_more"]


def test_the_command_line_makes_lists_rotates_and_revokes(command: Command) -> None:
    made = command("keys", "create", "ann", "--scopes", "infer,read", "--requests-per-minute", "7", "--json")
    key = json.loads(made.stdout)
    assert key["scopes"] == ["infer", "read"] and key["requests_per_minute"] == 7 and keys.check(key["secret"])
    rotated = command("keys", "rotate", key["id"])
    assert rotated.stdout.splitlines()[-1].startswith("mo-") and keys.check(key["secret"]) is None
    assert f"{key['id']}  ann  infer,read\n" in command("keys", "list").stdout
    assert command("keys", "revoke", key["id"]).stdout == f"{key['id']} is revoked\n"
    assert f"{key['id']}  ann  infer,read  (ended)" in command("keys", "list").stdout
    shop = command("projects", "create", "shop", "--storage-gb", "2")
    first = keys.check(shop.stdout.splitlines()[-1])
    assert first is not None and (first.project, first.name) == ("shop", "admin")
    assert command("projects", "list").stdout == "default\nshop\n"
