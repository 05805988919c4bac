"""Bad requests to models and recipes, on the real api before the real engine with the tiny base.

Each is told what was wrong by a code of ours, whole or as a stream, while an answer beside it goes on as if nothing had
been. The parts have finer tests in their folders; bad files and machines are in `test_bad_input.py`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from moatelier.contracts import Recipe
from moatelier.settings import settings
from modalities import bundle, pull
from modalities.bundle import read_manifest
from serving.pool import Pool
from serving.pool import create_app as create_engine
from store import adapters, db, keys, recipes
from tests import fakes
from tests.api.running import running, wait_until
from tests.deciding import let_through
from tests.e2e.harness import free_port
from tests.serving.conftest import seal_adapter

ASK = [{"role": "user", "content": "where is my parcel"}]
TOO_LONG = [{"role": "user", "content": "Zq" * 600}]
UNKEPT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "uniqueItems": True}}}
"""A schema that nobody can hold an answer to token by token."""
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "wizard"}}}


class Service:
    """The api before its engine, and an answer that nothing may disturb."""

    def __init__(self, url: str, engine_url: str, scratch: Path) -> None:
        self.engine_url, self.scratch = engine_url, scratch
        headers = {"authorization": f"Bearer {keys.ensure_admin()}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)
        self.long = {"model": "good", "messages": ASK, "max_tokens": 100}
        self.quiet = self.chat(self.long).json()["choices"][0]["message"]["content"]

    def chat(self, body: dict[str, Any]) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=body)

    def engine(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.engine_url}/healthz", trust_env=False).json())

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Around what goes wrong: answers are under way all the time, and each is what it is in quiet times."""
        begun, over, told = threading.Event(), threading.Event(), list[str]()

        def ask_on() -> None:
            while not over.is_set():
                with self.http.stream("POST", "/v1/chat/completions", json=self.long | {"stream": True}) as answer:
                    lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
                    parts = [next(lines)]
                    begun.set()
                    parts += [line for line in lines if line != "[DONE]"]
                told.append("".join(json.loads(part)["choices"][0]["delta"].get("content", "") for part in parts))

        asking = threading.Thread(target=ask_on, daemon=True)
        asking.start()
        assert begun.wait(30)
        yield
        over.set()
        asking.join(60)
        assert told and set(told) == {self.quiet}

    def refused(self, body: dict[str, Any], status: int, code: str, words: str) -> None:
        """Whole and as a stream; a recipe's stream may have told of its progress before."""
        with self.undisturbed():
            whole = self.chat(body)
            streamed = self.chat(body | {"stream": True})
        assert whole.status_code == status, whole.text
        self._check(whole.json(), code, words)
        if streamed.status_code == 200:
            assert body["model"].startswith("moa/"), streamed.text
            last = [line for line in streamed.text.splitlines() if line.startswith("data: ")][-1]
            self._check(json.loads(last.removeprefix("data: ")), code, words)
        else:
            assert streamed.status_code == status, streamed.text
            self._check(streamed.json(), code, words)

    @staticmethod
    def _check(answer: dict[str, Any], code: str, words: str) -> None:
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["code"] == code, error
        assert words in f"{error['param']}: {error['message']}", error

    def add(self, name: str, *proposers: dict[str, Any], **more: Any) -> httpx.Response:
        recipe = {"name": name, "layers": [{"proposers": proposers}], "aggregator": {"kind": "vote"}, **more}
        return self.http.post("/v1/moa", json={"yaml": json.dumps(recipe)})

    def go_live(self, name: str, *proposers: dict[str, Any], **more: Any) -> None:
        added = self.add(name, *proposers, **more)
        assert added.status_code == 200, added.text
        let_through(name, added.json()["digest"])


def register(scratch: Path, name: str, seed: int, **fields: Any) -> Path:
    """A registered adapter under its own name; its bundle's folder."""
    folder = seal_adapter("tiny", scratch, name, seed=seed, **fields)
    record = adapters.register("default", read_manifest(folder), "task-1")
    adapters.set_alias("default", name, record.digest, fence=1, actor="test")
    return folder


@pytest.fixture(scope="module")
def service(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("bad-requests")
    (folder / "home").mkdir()
    environment = {
        "MOATELIER_HOME": str(folder / "home"),
        "MOATELIER_CACHE": str(folder / "cache"),
        "MOATELIER_CATALOGUE": str(fakes.tiny_catalogue(folder / "catalogue.yaml", tiny_folder)),
        "MOATELIER_BASE": "tiny",
        "MOATELIER_PRECISION": "fp32",
        "MOATELIER_THREADS": "1",
        "MOATELIER_UPSTREAMS": json.dumps({"dead": {"url": f"http://127.0.0.1:{free_port()}"}}),
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        settings.cache_clear()
        db.migrate()
        pull.pull("tiny")
        register(folder, "good", 1)
        register(folder, "other", 2)
        with running(create_engine(Pool("tiny"))) as engine, running(create_app(engine)) as url:
            made = Service(url, engine, folder)
            yield made
            made.http.close()
        db.dispose()
    settings.cache_clear()


@pytest.fixture(autouse=True)
def nothing_is_left(service: Service) -> Iterator[None]:
    """After each test the engine holds nothing for anybody, and answers as before."""
    yield
    wait_until(lambda: not service.engine()["busy"])
    assert service.engine()["memory_held"] == service.engine()["waiting"] == service.engine()["running"] == 0
    assert service.chat(service.long).json()["choices"][0]["message"]["content"] == service.quiet


@pytest.mark.parametrize("name", ["good", "tiny"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": TOO_LONG}, "512"),
        ({"response_format": UNKEPT}, "response_format: "),
        ({"response_format": NO_SCHEMA}, "response_format: "),
        ({"n": 17}, "n: "),
        ({"n": 10**9}, "n: "),
    ],
)
def test_what_no_model_can_answer(service: Service, name: str, change: dict[str, Any], words: str) -> None:
    service.refused({"model": name, "messages": ASK, "max_tokens": 9} | change, 400, "invalid_request", words)


def test_an_unknown_adapter(service: Service) -> None:
    for name in ("goood", "ft:tiny:good:00000000", "0" * 64):
        service.refused({"model": name, "messages": ASK}, 404, "not_found", name)


def test_an_adapter_of_another_base(service: Service) -> None:
    """Of another name, of other weights or another template under the same name."""
    register(service.scratch, "foreign", 3, base="other", base_digest="0" * 64)
    register(service.scratch, "stale", 4, base_digest="0" * 64)
    register(service.scratch, "dialect", 5, template_digest="0" * 64)
    for name in ("foreign", "stale", "dialect"):
        service.refused({"model": name, "messages": ASK}, 409, "integrity_error", "The adapter was tuned")
    added = service.add("borders", {"adapter": "foreign"}, {"base": True})
    assert (added.status_code, added.json()["error"]["code"]) == (400, "invalid_request"), added.text
    service.go_live("alone", {"adapter": "stale"})
    service.refused({"model": "moa/alone", "messages": ASK}, 409, "integrity_error", "The adapter was tuned")


def test_a_changed_bundle(service: Service) -> None:
    """Alone it is refused; in a recipe the others answer; one that is loaded and was verified goes on."""
    folder = register(service.scratch, "changed", 6)
    weights = folder / bundle.WEIGHTS
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    service.refused({"model": "changed", "messages": ASK}, 409, "integrity_error", bundle.WEIGHTS)
    service.go_live("with-changed", {"adapter": "changed"}, {"adapter": "other"}, {"adapter": "good"})
    body = {"model": "moa/with-changed", "messages": ASK, "max_tokens": 9}
    with service.undisturbed():
        answer = service.chat(body)
    assert answer.status_code == 200, answer.text
    assert [call["error"] for call in answer.json()["moatelier"]["calls"]] == ["integrity_error", "", ""]
    weights.write_bytes(original)
    mended = service.chat({"model": "changed", "messages": ASK, "max_tokens": 9})
    assert mended.status_code == 200, mended.text
    weights.unlink()
    again = service.chat({"model": "changed", "messages": ASK, "max_tokens": 9})
    assert again.json()["choices"] == mended.json()["choices"]


def test_a_recipe_that_loops(service: Service) -> None:
    with service.undisturbed():
        looped = service.add("loop", {"recipe": "loop"})
    assert looped.status_code == 400 and "asks itself" in looped.json()["error"]["message"]
    service.go_live("inner", {"adapter": "other"})
    service.go_live("outer", {"recipe": "inner"})
    with service.undisturbed():
        looped = service.add("inner", {"recipe": "outer"})
    assert "moa/inner -> moa/outer -> moa/inner" in looped.json()["error"]["message"]
    assert service.chat({"model": "moa/outer", "messages": ASK, "max_tokens": 3}).status_code == 200
    # As when two people add two recipes at the same moment: it stands in the store.
    layers = [{"proposers": [{"recipe": f"outer@{recipes.get('default', 'outer').digest}"}]}]
    made = Recipe.model_validate({"name": "inner", "layers": layers, "aggregator": {"kind": "vote"}})
    recipes.put("default", "", made, actor="test")
    let_through("inner", made.digest)
    told = ({"invalid_request", "conflict"}, ("asks itself", "was changed since"))
    wait_until(lambda: service.chat({"model": "moa/outer", "messages": ASK}).status_code == 400, timeout_s=5)
    for name in ("moa/inner", "moa/outer"):
        with service.undisturbed():
            error = service.chat({"model": name, "messages": ASK}).json()["error"]
        assert error["code"] in told[0] and any(words in error["message"] for words in told[1]), error


def test_a_recipe_that_names_a_dead_upstream(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"upstream": "dead", "model": "m"}
    with service.undisturbed():
        unknown = service.add("nobody", {"upstream": "nobody", "model": "m"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found"), unknown.text
    service.go_live("dead", dead)
    service.refused({"model": "moa/dead", "messages": ASK}, 502, "upstream_error", "dead")
    service.go_live("half-dead", dead, {"adapter": "good"}, {"adapter": "other"})
    for _ in range(8):  # beyond what its breaker bears
        with service.undisturbed():
            answer = service.chat({"model": "moa/half-dead", "messages": ASK, "max_tokens": 9})
        assert answer.status_code == 200, answer.text
        assert [call["error"] for call in answer.json()["moatelier"]["calls"]] == ["upstream_error", "", ""]
    with monkeypatch.context() as forgotten:
        forgotten.delenv("MOATELIER_UPSTREAMS")
        settings.cache_clear()
        body = {"model": "moa/half-dead", "messages": ASK, "max_tokens": 1}
        wait_until(lambda: service.chat(body).status_code == 404, timeout_s=5)
        service.refused(body, 404, "not_found", "No upstream of this name")
    settings.cache_clear()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"messages": TOO_LONG}, "512"), ({"response_format": UNKEPT}, "(at response_format)"), ({"n": 2}, "n: ")],
)
def test_what_no_recipe_can_answer(service: Service, change: dict[str, Any], words: str) -> None:
    """The request is at fault, so no model's breaker may open on it."""
    service.go_live("panel", {"adapter": "good"}, {"adapter": "other"})
    body = {"model": "moa/panel", "messages": ASK, "max_tokens": 9}
    for _ in range(4):  # twice each: more often than a breaker bears
        service.refused(body | change, 400, "invalid_request", words)
    answer = service.chat(body)
    assert answer.status_code == 200 and not any(call["error"] for call in answer.json()["moatelier"]["calls"])
