"""Following a task on the command line: its events, its questions, its end; and a dialogue with its model."""

import io
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import typer

from moatelier import streams
from moatelier.client import Client
from moatelier.errors import Conflict, MoatelierError
from moatelier.show import Teller, console, plan_table

DONE, OPEN, NOT_REACHED, FAILED = 0, 2, 3, 1
POLL_S = 0.3


def follow(client: Client, thread: str, stream: streams.Stream, *, yes: bool, as_json: bool) -> int:
    """Tell events, put questions to the person, go on with the answers, until the task ends. The exit status."""
    while True:
        ended = _tell(stream, as_json)
        pending = _pending(client, thread)
        if pending is None:
            return _status(ended)
        answer = _answer(pending["value"], yes=yes, as_json=as_json)
        if answer is None:
            return OPEN
        stream = streams.run(client, thread, command={"resume": {pending["id"]: answer}})


def resume(client: Client, thread: str, words: str) -> streams.Stream:
    """Answer what a conversation waits for with plain words."""
    pending = _pending(client, thread)
    if pending is None:
        raise Conflict("This task waits for nothing.", where=thread, remedy="Follow it: moatelier task watch ID")
    return streams.run(client, thread, command={"resume": {pending["id"]: words}})


def _tell(stream: streams.Stream, as_json: bool) -> dict[str, Any] | None:
    """Tell everything up to the stream's end; the task's result if it came by."""
    result = None
    with Teller(as_json) as teller:
        for event, _, data in stream:
            if not isinstance(data, dict) or "kind" not in data:
                if event == "error":
                    raise MoatelierError.from_dict({"code": data.get("error"), "what": data.get("message", str(data))})
                continue
            teller.tell(data["kind"], data["step"], data["body"])
            if data["kind"] == "result":
                result = data["body"]
    return result


def _pending(client: Client, thread: str) -> dict[str, Any] | None:
    for interrupts in client.call("GET", f"/threads/{thread}")["interrupts"].values():
        for interrupt in interrupts:
            return dict(interrupt)
    return None


def _answer(value: dict[str, Any], *, yes: bool, as_json: bool) -> Any:
    """What the person says to a question or a plan; None when nobody is there to say it."""
    if value["type"] == "approval":
        return _approval(value, yes=yes, as_json=as_json)
    lines = [question["text"] for question in value["questions"]]
    if as_json:
        print(json.dumps({"kind": value["type"], **value}, ensure_ascii=False), flush=True)
    else:
        for question in value["questions"]:
            choices = f" ({', '.join(question['choices'])})" if question["choices"] else ""
            console.print(f"[bold]?[/] {question['text']}{choices}", markup=True)
    return _prompt("answer", value["task"], lines)


def _approval(value: dict[str, Any], *, yes: bool, as_json: bool) -> Any:
    if as_json:
        print(json.dumps({"kind": value["type"], **value}, ensure_ascii=False), flush=True)
    else:
        plan_table(value["plan"], value["forecast"])
        console.print(f"  {value['action_requests'][0]['description']}", markup=False)
    refused = value.get("refused")
    if yes and refused:
        raise MoatelierError.from_dict(refused)  # a yes would be refused and asked for again
    if refused and not as_json:
        console.print(f"  {MoatelierError.from_dict(refused)}", markup=False)
    if yes:
        return {"version": value["version"], "decisions": [{"type": "approve"}]}
    said = _prompt(
        "approve? yes, no, or what to change" if not refused else "a number, no, or what to change", value["task"], []
    )
    if said is None or said.strip().lower() not in ("yes", "y"):
        return said
    return {"version": value["version"], "decisions": [{"type": "approve"}]}


def _prompt(label: str, task: str, lines: list[str]) -> str | None:
    try:
        return str(typer.prompt(label, err=True))
    except typer.Abort:
        print(f'\nThe task waits. Go on with: moatelier task answer {task} "..."', file=sys.stderr)
        return None


def _status(result: dict[str, Any] | None) -> int:
    if result is None:
        return DONE
    return {"reached": DONE, "not_reached": NOT_REACHED, "rejected": DONE}.get(result["status"], FAILED)


def recipe_task(client: Client, task: str, as_json: bool) -> dict[str, Any]:
    """Tell a task that asks nobody anything, as those of recipes are, to its end; its status and result.

    Raises:
        MoatelierError: Why it failed.
    """
    with Teller(as_json) as teller:
        for _, _, data in streams.watch(client, task, thread=""):
            if isinstance(data, dict) and "kind" in data and (as_json or data["kind"] != "error"):
                teller.tell(data["kind"], data["step"], data["body"])
    ended = client.call("GET", f"/tasks/{task}")
    if ended["error"]:
        raise MoatelierError.from_dict(ended["error"])
    return {"status": ended["status"], **(ended["result"] or {})}


def dialogue(client: Client, model: str, words: str | None, as_json: bool) -> None:
    """One message and its streamed answer, or a dialogue until an empty line."""
    model = model or client.call("GET", "/v1/models")["data"][0]["id"]
    talk: list[dict[str, str]] = []
    while True:
        said = words if words is not None else typer.prompt(model, default="", show_default=False)
        if not said:
            return
        talk.append({"role": "user", "content": said})
        told = _answered(client, {"model": model, "messages": talk, "stream": True}, as_json)
        if as_json:
            print(json.dumps(told, ensure_ascii=False))
        else:  # beside the answer, so that a pipe gets the answer alone
            print()
            print(f"[{told['id']} by {told['model']}]", file=sys.stderr)
        talk.append({"role": "assistant", "content": told["content"]})
        if words is not None:
            return


def _answered(client: Client, body: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """One streamed answer, shown as it comes unless as JSON: its id, who gave it, its text, and how it was routed."""
    told: dict[str, Any] = {"id": "", "model": body["model"], "content": ""}
    for _, _, chunk in client.stream("POST", "/v1/chat/completions", body):
        if not isinstance(chunk, dict):  # such as [DONE]
            continue
        if "error" in chunk:
            raise MoatelierError.from_dict({"code": chunk["error"].get("code"), "what": chunk["error"]["message"]})
        told |= {name: chunk[name] for name in ("id", "model", "moatelier") if name in chunk}
        for choice in chunk.get("choices") or ():
            piece = choice["delta"].get("content") or ""
            told["content"] += piece
            if not as_json:
                print(piece, end="", flush=True)
    return told


def enter_router(client: Client, name: str, as_json: bool) -> None:
    """Have an adapter enter `auto` again, wait until it has, and tell what came of it.

    Raises:
        MoatelierError: Why it could not be tried.
    """
    asked = client.call("POST", f"/adapters/{name}/route")
    told = asked
    while told["status"] in ("pending", "running"):  # as long as jobs before it take
        time.sleep(POLL_S)
        told = client.call("GET", f"/adapters/{asked['adapter']}/route/{asked['run']}")
    if told["error"]:
        raise MoatelierError.from_dict(told["error"])
    if as_json:
        print(json.dumps(told["entry"], ensure_ascii=False))
        return
    console.print(told["entry"]["reason"], markup=False)


def fetch_report(client: Client, task: str, to: Path) -> Path:
    """Download and unpack a task's report; its index.html."""
    packed = io.BytesIO()
    client.download(f"/tasks/{task}/report", packed)
    with zipfile.ZipFile(packed) as archive:
        for member in archive.infolist():
            member.filename = member.filename.partition("/")[2]  # in the archive all lies in a folder of its own
            archive.extract(member, to)
    return to / "index.html"
