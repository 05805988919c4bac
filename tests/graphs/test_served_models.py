"""Models by the names that clients know: asked again while nothing answers, and never because of what was answered."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from graphs import served_models
from graphs.served_models import ServedModels
from moatelier.contracts import Proposal
from moatelier.errors import UpstreamError, UpstreamRefused
from serving.completions import EMPTY


def asked(*said: Proposal) -> tuple[ServedModels, list[str]]:
    """Models of which each answers with the next of these, and under which labels they were asked."""
    left, labels = list(said), list[str]()

    async def ask(call: Any, *_: Any) -> Proposal:
        labels.append(call.label)
        return left.pop(0)

    async def target(_: Any) -> Any:
        return None

    answers: Any = SimpleNamespace(asker=SimpleNamespace(ask=ask), targets=SimpleNamespace(get=target))
    return ServedModels("default", answers, SimpleNamespace()), labels  # type: ignore[arg-type]


def told(text: str = "", error: str = "", reason: str = "") -> Proposal:
    return Proposal(layer=0, place=0, model="m", text=text, error=error, reason=reason)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_models, "PATIENCE_S", (0.0, 0.0))


def ask(models: ServedModels) -> Proposal:
    return asyncio.run(models.ask("m", [{"role": "user", "content": "hello"}], {}))


def test_an_engine_that_starts_again_is_asked_again_behind_another_breaker() -> None:
    models, labels = asked(told(error=UpstreamError.code, reason="gone"), told("here"))
    assert ask(models).text == "here" and len(set(labels)) == 2


def test_an_engine_that_never_answers_is_an_error() -> None:
    models, labels = asked(*[told(error=UpstreamError.code, reason="gone")] * 3)
    with pytest.raises(UpstreamError, match="gone"):
        ask(models)
    assert len(labels) == 3


def test_to_say_nothing_is_an_answer() -> None:
    """A model that stops at once was asked again and again, 15 s for every item of a run."""
    models, labels = asked(told(error=UpstreamError.code, reason=f"{EMPTY} (at engine)"))
    said = ask(models)
    assert (said.text, said.error, len(labels)) == ("", "", 1)


def test_a_refusal_is_told_at_once() -> None:
    models, labels = asked(told(error=UpstreamRefused.code, reason="too long"))
    with pytest.raises(UpstreamRefused, match="too long"):
        ask(models)
    assert len(labels) == 1
