"""Checks what a client wants a thread to do, before a run is written: nothing here has an effect."""

from collections.abc import Iterable
from typing import Any

from api.routes.threads.shapes import ASSISTANTS
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import datasets, tasks

ROLES = {"human": "user", "ai": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
INPUT_SHAPE = 'Send {"messages": [{"role": "user", "content": "..."}], "files": {"train": "file-..."}}.'


def check_assistant(body: dict[str, Any]) -> None:
    """Refuse an assistant that is not there."""
    wanted = body.get("assistant_id", ASSISTANTS[0])
    if wanted not in ASSISTANTS:
        raise NotFound(f"There is no assistant {wanted!r}.", where="assistant_id", remedy=f"Use {ASSISTANTS[0]!r}.")


NOT_HONOURED = {
    # Each would change what happens; what cannot be done is refused, rather than done otherwise than it was asked.
    "webhook": "The service calls nobody. Follow the run.",
    "after_seconds": "Start the run when it shall start, or make a cron.",
    "checkpoint": "A conversation goes on from where it stands.",
    "checkpoint_id": "A conversation goes on from where it stands.",
    "interrupt_before": "The conversation stops where it asks you something.",
    "interrupt_after": "The conversation stops where it asks you something.",
}


def check_fields(body: dict[str, Any]) -> None:
    """Refuse an assistant that is not there, and fields of a run that cannot be honoured.

    Raises:
        NotFound, InvalidRequest: As it says.
    """
    check_assistant(body)
    for name, remedy in NOT_HONOURED.items():
        if body.get(name):
            raise InvalidRequest(f"{name} is not supported.", where=name, remedy=remedy)


def read_metadata(body: dict[str, Any]) -> dict[str, Any]:
    """What a client calls its thing. Raises InvalidRequest when it is no object."""
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidRequest("Metadata is an object.", where="metadata")
    return metadata


def read_number(body: dict[str, Any], name: str, default: int, most: int) -> int:
    """A whole number from 0 to `most`. Raises InvalidRequest."""
    value = body.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidRequest(f"`{name}` is a whole number from 0 to {most}.", where=name)
    return value


def read_choice(body: dict[str, Any], name: str, choices: Iterable[str], default: str) -> str:
    """One of a few words. Raises InvalidRequest."""
    value, known = body.get(name) or default, list(choices)
    if value not in known:
        remedy = f"Use one of {', '.join(known)}."
        raise InvalidRequest(f"`{name}` cannot be {value!r}.", where=name, remedy=remedy)
    return str(value)


def read_input(project: str, value: Any) -> dict[str, Any]:
    """The run's input in our own shape: messages with `role` and text `content`, and the ids of files that exist.

    Raises:
        InvalidRequest, NotFound: It has no message, or names a file that is not there.
    """
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list) or not value["messages"]:
        raise InvalidRequest("The input has no messages.", where="input.messages", remedy=INPUT_SHAPE)
    messages = [_message(item, number) for number, item in enumerate(value["messages"])]
    files = value.get("files") or {}
    if not isinstance(files, dict) or set(files) - {"train", "test"}:
        raise InvalidRequest("`files` takes `train` and `test` only.", where="input.files", remedy=INPUT_SHAPE)
    for role, file in files.items():
        if not isinstance(file, str):
            raise InvalidRequest("A file is named by its id.", where=f"input.files.{role}", remedy=INPUT_SHAPE)
        datasets.get_file(project, file)
    return {"messages": messages, "files": files}


def _message(item: Any, number: int) -> dict[str, str]:
    where = f"input.messages.{number}"
    if not isinstance(item, dict):
        raise InvalidRequest("A message is an object.", where=where, remedy=INPUT_SHAPE)
    role = ROLES.get(str(item.get("role") or item.get("type") or "user"))
    content = item.get("content")
    if isinstance(content, list):  # parts, as langchain and openai both write them
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if role is None or not isinstance(content, str) or not content.strip():
        raise InvalidRequest("A message needs a known role and a text.", where=where, remedy=INPUT_SHAPE)
    return {"role": role, "content": content}


def read_resume(thread: tasks.Thread, command: Any) -> tuple[str, Any]:
    """The interrupt that a `command` answers, and the answer.

    Raises:
        InvalidRequest: The command is of another kind, or the answer does not fit the question.
        Conflict: That interrupt is not pending, or what it approved has changed since.
    """
    resume = command.get("resume") if isinstance(command, dict) else None
    if not isinstance(resume, dict) or len(resume) != 1 or set(command) != {"resume"}:
        raise InvalidRequest(
            "The command does not answer exactly one interrupt.",
            where="command",
            remedy='Send {"resume": {"<interrupt id>": answer}}.',
        )
    ((wanted, answer),) = resume.items()
    pending = {interrupt["id"]: interrupt["value"] for interrupt in thread.interrupts}
    if thread.status != "interrupted" or wanted not in pending:
        now = f"It waits for {', '.join(pending)}." if pending and thread.status == "interrupted" else ""
        raise Conflict(
            f"The thread does not wait for an answer to {wanted!r}. {now}".strip(),
            where=f"command.resume.{wanted}",
            remedy="Read the thread's state and answer what it asks now.",
        )
    if isinstance(pending[wanted], dict) and pending[wanted].get("type") == "approval":
        _check_approval(pending[wanted], answer, f"command.resume.{wanted}")
    return wanted, answer


def _check_approval(asked: dict[str, Any], answer: Any, where: str) -> None:
    if isinstance(answer, str) and answer.strip():
        return  # plain words; the interrupt's id says which plan they are about
    decisions = answer.get("decisions") if isinstance(answer, dict) else None
    if not isinstance(decisions, list) or len(decisions) != 1 or not isinstance(decisions[0], dict):
        raise InvalidRequest(
            "An approval is answered by exactly one decision.",
            where=where,
            remedy='Send {"version": "...", "decisions": [{"type": "approve"}]}, or plain words.',
        )
    if answer.get("version") != asked.get("version"):
        raise Conflict(
            "The plan has changed since it was shown.",
            where=f"{where}.version",
            remedy="Look at the plan as it is now.",
        )
    allowed = asked["review_configs"][0]["allowed_decisions"]
    decision = decisions[0]
    if decision.get("type") not in allowed:
        raise InvalidRequest(
            f"A decision of type {decision.get('type')!r} is not possible here.",
            where=f"{where}.decisions.0.type",
            remedy=f"Use one of {', '.join(allowed)}.",
        )
    edited = decision.get("edited_action")
    if decision["type"] == "edit" and not (isinstance(edited, dict) and isinstance(edited.get("args"), dict)):
        raise InvalidRequest(
            "An edit needs the fields to change.",
            where=f"{where}.decisions.0.edited_action",
            remedy='Send {"name": "train", "args": {...}}.',
        )
