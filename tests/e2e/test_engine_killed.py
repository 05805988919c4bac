"""The engine dies by SIGKILL under load, in real processes on the tiny model: everybody is told, and all comes back."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from moatelier.contracts import Recipe
from modalities.bundle import read_manifest
from serving import mixtures
from store import adapters, recipes
from tests.deciding import let_through
from tests.e2e.harness import Service, prepared, wait_for
from tests.serving.conftest import seal_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ASK: list[Any] = [{"role": "user", "content": "where is my parcel"}]
LONG = 400
ENDS_WITHIN_S = 60.0
"""From the kill on, for those who do not ask again: nothing is waited for but a refused connection."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the adapters `a` and `b`, and live recipes that ask them."""
    folder = tmp_path_factory.mktemp("killed")
    made = Service(folder, MOATELIER_PRECISION="fp32")
    with prepared(made):
        for seed, name in enumerate("ab", start=1):
            bundle = seal_adapter("tiny", folder, name, seed=seed)
            digest = adapters.register("default", read_manifest(bundle), "task-1").digest
            adapters.set_alias("default", name, digest, fence=1, actor="test")
        for name, kind in (("panel", {"kind": "vote"}), ("writer", {"kind": "synthesis", "adapter": "a"})):
            layers = [{"proposers": [{"adapter": "a"}, {"adapter": "b"}, {"base": True}], "quorum": 3}]
            recipe = Recipe.model_validate({"name": name, "layers": layers, "aggregator": kind})
            sealed = mixtures.seal("default", recipe)
            recipes.put("default", "", sealed, actor="test")
            let_through(name, sealed.digest)
        with made:
            yield made


class Crowd:
    """Clients that ask at once, each on a thread of its own, and how each of them ended."""

    def __init__(self, service: Service) -> None:
        self.url, self.key = f"{service.url}/v1", (service.home / "keys" / "admin.key").read_text().strip()
        self.begun: set[str] = set()
        """Who has had a first piece."""
        self.ends: dict[str, str] = {}
        """Who -> the text, or an error's code."""
        self._threads: list[threading.Thread] = []

    def client(self, patience: int = 0) -> openai.OpenAI:
        """The unmodified client. `patience` is how often it asks again."""
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=patience, timeout=ENDS_WITHIN_S)

    def whole(self, model: str, tokens: int = LONG, patience: int = 0, **more: Any) -> str:
        with self.client(patience) as client:
            answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=tokens, **more)
        assert answer.choices[0].finish_reason in ("stop", "length")
        return answer.choices[0].message.content or ""

    def streamed(self, who: str, model: str) -> str:
        text, finished = "", ""
        with self.client() as client:
            stream = client.chat.completions.create(model=model, messages=ASK, max_tokens=LONG, stream=True)
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                finished = chunk.choices[0].finish_reason or finished
                if text:
                    self.begun.add(who)
        assert finished, "a stream that breaks off ends with an error, never silently"
        return text

    def send(self, who: str, asking: Callable[[], str]) -> None:
        def run() -> None:
            try:
                self.ends[who] = asking()
            except openai.APIError as error:
                assert not isinstance(error, openai.APIConnectionError), error  # also a time-out
                self.ends[who] = f"error: {error.code}"

        thread = threading.Thread(target=run, name=who, daemon=True)
        thread.start()
        self._threads.append(thread)

    def ended(self, within_s: float) -> dict[str, str]:
        """Everybody's end; nobody hangs, and nobody ends in any way but an answer or an error of ours."""
        deadline = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread.name for thread in self._threads if thread.is_alive()]
        assert not left, f"they still wait: {left}"
        assert len(self.ends) == len(self._threads), "somebody ended in a way of its own, see above"
        return self.ends


def held(service: Service) -> dict[str, Any]:
    """What the engine says of itself."""
    url = f"http://127.0.0.1:{service.environment['MOATELIER_ENGINE_PORT']}/healthz"
    return dict(httpx.get(url, trust_env=False).json())


def test_an_engine_killed_under_load_hangs_nobody_and_comes_back(service: Service) -> None:
    quiet = Crowd(service)
    models = ("tiny", "a", "b", "moa/panel", "moa/writer")
    before = {model: quiet.whole(model, 40, patience=20) for model in models}
    assert len({before[model] for model in models[:3]}) == 3, "two say the same, so that a mistake would not show"
    for _ in range(2):
        _kill_under_load(service, before)


def _kill_under_load(service: Service, before: dict[str, str]) -> None:
    crowd, engine = Crowd(service), service.pid("engine")
    for number in range(12):
        crowd.send(who := f"stream {number}", partial(crowd.streamed, who, "ab"[number % 2]))
    wait_for("the streams to have begun", lambda: len(crowd.begun) == 12)
    for number in range(8):
        # Each takes several places in the batch, so that some of them have to wait.
        crowd.send(f"wide {number}", partial(crowd.whole, "ab"[number % 2], n=16))
        crowd.send(f"recipe {number}", partial(crowd.whole, ("moa/panel", "moa/writer")[number % 2]))
    for number, model in enumerate([*before] * 2):
        crowd.send(f"patient {number} {model}", partial(crowd.whole, model, 40, patience=200))
    wait_for("requests to wait", lambda: held(service)["waiting"])
    load = held(service)
    os.kill(engine, signal.SIGKILL)
    ends = crowd.ended(ENDS_WITHIN_S)
    errors = {who: end for who, end in ends.items() if end.startswith("error: ")}
    assert set(errors.values()) <= {"error: upstream_error"}, errors
    assert len(errors) >= 12, (load, "the kill met hardly anybody")
    patient = {who: end for who, end in ends.items() if who.startswith("patient")}
    assert {who: before[who.split()[-1]] for who in patient} == patient
    assert service.pid("engine") != engine and "the engine process ended with -9" in service.log.read_text()
    wait_for("all to be ready", service.ready)
    after = {model: Crowd(service).whole(model, 40, patience=20) for model in before}
    assert after == before
    wait_for("nothing to be left behind", lambda: held(service)["running"] == held(service)["waiting"] == 0)
    assert held(service)["memory_held"] == 0
