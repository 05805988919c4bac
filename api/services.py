"""What the routes share in one process, and how a route asks for it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.auth import Callers
from api.decisions import DecisionLog
from api.limits import Limits
from graphs.answering import Answers
from serving.auto import Auto
from serving.backend import Backend
from serving.brief import Brief
from serving.mixtures import Mixture
from serving.targets import Target


@dataclass(frozen=True)
class Services:
    """Made once when the app starts.

    Attributes:
        callers: Who comes with which key.
        limits: How much each key may ask.
        targets: (project, model name) -> what answers under that name.
        auto: Chooses what answers a request to `auto`.
        backend: The engine.
        mixtures: (project, recipe name) -> the recipe with what it names.
        answers: Answers by recipes.
        decisions: Writes route decisions to the event log, behind the requests.
    """

    callers: Callers
    limits: Limits
    targets: Brief[tuple[str, str], Target]
    auto: Auto
    backend: Backend
    mixtures: Brief[tuple[str, str], Mixture]
    answers: Answers
    decisions: DecisionLog


async def services(request: Request) -> Services:
    """The process's services. Asynchronous only because FastAPI sends other functions through a thread."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


Shared = Annotated[Services, Depends(services)]
