"""A conversation's events as text, for pages that know nothing but a chat.

The same events give the same text, whoever reads them and when: so an answer that was sent can be known again.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from moatelier.contracts import Event
from moatelier.errors import MoatelierError

TENTHS = 10


class Teller:
    """Turns one run's events into pieces of text, in their order."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def tell(self, event: Event) -> str:
        """What a person is told of an event, with a line break at its end; nothing for most."""
        body = event.body
        if event.kind == "message":
            return "" if body.get("role") == "user" else f"{body.get('content', '')}\n"
        if event.kind == "progress":
            return self._progress(event.step, body)
        known = {"status": _status, "question": _question, "approval": _approval, "error": _error, "run": _run}
        return known[event.kind](body) if event.kind in known else ""

    def _progress(self, step: int, body: Mapping[str, Any]) -> str:
        """A line for each tenth of a phase."""
        total, done = body.get("steps") or body.get("rows") or body.get("total"), body.get("done", step)
        if not total or not isinstance(total, int | float) or not isinstance(done, int | float):
            return ""
        phase = " ".join(str(body[key]) for key in ("phase", "part") if body.get(key))
        tenth = min(TENTHS, int(TENTHS * done / total))
        if tenth <= self._tenths.get(phase, 0):
            return ""
        self._tenths[phase] = tenth
        loss = f", loss {body['loss']:.3f}" if isinstance(body.get("loss"), int | float) else ""
        return f"{phase} {100 * tenth // TENTHS} %{loss}\n"


def told(events: Iterable[Event]) -> str:
    """What is told of a run's events altogether."""
    teller = Teller()
    return "".join(teller.tell(event) for event in events)


def asks(value: Mapping[str, Any]) -> str:
    """What a pending interrupt asks, as its event told it."""
    return _approval(value) if value.get("type") == "approval" else _question(value)


def _status(body: Mapping[str, Any]) -> str:
    return f"*{str(body.get('status', '')).replace('_', ' ')}*\n"


def _question(body: Mapping[str, Any]) -> str:
    lines = []
    for question in body.get("questions") or ():
        choices = f" ({', '.join(str(choice) for choice in question['choices'])})" if question.get("choices") else ""
        lines.append(f"{question['text']}{choices}\n")
    return "".join(lines)


def _approval(body: Mapping[str, Any]) -> str:
    """The plan and its version: who says yes to an answer that holds it has seen that plan."""
    requests = body.get("action_requests") or [{}]
    lines = [f"Plan {str(body.get('version', ''))[:12]}: {requests[0].get('description', '')}\n"]
    cheaper = (body.get("forecast") or {}).get("cheaper") or []
    lines += [f"{place}. {option['change']}\n" for place, option in enumerate(cheaper, 1)]
    if body.get("refused"):
        lines.append(f"{MoatelierError.from_dict(body['refused'])}\n")
    number = "the number of a cheaper trial, " if cheaper else ""
    return "".join(lines) + f"Say yes to begin, no to end it, {number}or what to change.\n"


def _error(body: Mapping[str, Any]) -> str:
    return " ".join(str(body[key]) for key in ("what", "where", "remedy") if body.get(key)) + "\n"


def _run(body: Mapping[str, Any]) -> str:
    return _error(body["error"]) if body.get("error") else ""
