"""A chat that is a conversation: which thread its messages belong to, and what its last words are an answer to.

A chat page sends everything that was said, each time, and knows no threads. So a thread is known again by what the
person said on it, in order; where that fits several, by our last answer, and else none is meant. `metadata.thread_id`
names one outright. Whoever answers a question or a plan must have seen it: an answer that is not to what the thread
asks now (a page that was closed too early, a stale tab) approves nothing, but is shown what is asked.
"""

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from api import telling
from api.routes.threads.following import Span, span
from api.routes.threads.runs import start
from api.routes.threads.threads import conversation, create
from graphs import jobs
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.ids import digest_json
from store import datasets, events, tasks

KEY = "chat"
"""Of a thread's metadata: the digest of all that the person said on it."""
CANDIDATES = 20
FILE = re.compile(r"\bfile-[0-9a-z]{12}\b")
STOP = frozenset({"cancel", "stop", "abort"})
BUSY = "(Your last words were not taken up: the work of before goes on. Say cancel to stop it.)\n"
STALE = "(Your answer was not taken up: this is what is asked now.)\n"


@dataclass(frozen=True)
class Turn:
    """A message: what was said, and the files that came with it."""

    role: Literal["user", "assistant"]
    text: str
    files: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Chat:
    """A chat as its page sent it. `owner` tells apart who may be the same by their words."""

    owner: tuple[str, str]
    turns: list[Turn]

    @property
    def last(self) -> Turn:
        """The person's last words."""
        return self.turns[-1]

    def key(self, *, before: bool = False) -> str:
        """What the person said, as a digest; with `before`, without the last words."""
        said = [_plain(turn.text) for turn in self.turns if turn.role == "user"]
        return digest_json([*self.owner, *(said[:-1] if before else said)])

    @property
    def first(self) -> bool:
        """The person has said one thing yet."""
        return sum(turn.role == "user" for turn in self.turns) == 1

    @property
    def answered(self) -> str:
        """Our last answer, as the page holds it."""
        return next((_plain(turn.text) for turn in reversed(self.turns) if turn.role == "assistant"), "")


@dataclass(frozen=True)
class Heard:
    """What an answer is made of: a text to begin with, then a run's events, if there is a run."""

    thread: str
    part: Span | None = None
    prelude: str = ""


def _plain(text: str) -> str:
    return " ".join(text.split())


def read(project: str, body: Mapping[str, Any]) -> Chat:
    """The chat in a request.

    Raises:
        InvalidRequest: The last message is not a person's, or holds what a conversation does not take.
    """
    turns = []
    for number, message in enumerate(body["messages"]):
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("user", "assistant"):
            turns.append(_turn(role, message.get("content"), f"messages[{number}].content"))
    if not turns or turns[-1].role != "user" or not (turns[-1].text.strip() or turns[-1].files):
        remedy = "End with a message of the role user that has a text."
        raise InvalidRequest("Nobody has said anything.", where="messages", remedy=remedy)
    return Chat((project, str(body.get("user") or "")), turns)


def _turn(role: Literal["user", "assistant"], content: Any, where: str) -> Turn:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidRequest("A message's content is a text or a list of parts.", where=where)
    texts, files = [], []
    for part in parts:
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "file" and isinstance(part.get("file"), dict):
            files.append(part["file"])
        elif role == "user":
            remedy = "Send texts, and data as files: a CSV, a JSONL, or a zip of pictures or recordings."
            raise InvalidRequest(f"A conversation takes no {part.get('type')!r}.", where=where, remedy=remedy)
    return Turn(role, "\n".join(texts), tuple(files))


def hear(project: str, chat: Chat, thread_id: str | None) -> Heard:
    """Take up the last words of a chat (blocking): start a run, go on with one that is under way, or ask again.

    Raises:
        NotFound: There is no such thread, or no such file.
        InvalidRequest, Conflict: The words cannot be taken up.
    """
    if going := _going(project, chat, thread_id):
        return Heard(going.thread, span(going))
    thread = _thread(project, chat, thread_id)
    if thread is None:
        return _say(project, chat, None)
    if thread.metadata.get(KEY) == chat.key() and not chat.first:  # the page asks for the same answer once more
        return _again(project, thread)
    if thread.status == "busy":
        return _meanwhile(project, chat, thread)
    if thread.status == "interrupted":
        return _answer(project, chat, thread)
    return _say(project, chat, thread.id)


def _going(project: str, chat: Chat, thread_id: str | None) -> tasks.Run | None:
    """The run that is answering these very words already: a client that was cut off sends them again."""
    wanted = {KEY: chat.key(), "graph_id": "conversation"}
    ids = None if thread_id is None else [thread_id]
    for thread in tasks.search_threads(project, "busy", wanted, limit=1, ids=ids):
        for run in tasks.open_runs(project, thread.id):
            return run
    return None


def _thread(project: str, chat: Chat, thread_id: str | None) -> tasks.Thread | None:
    if thread_id is not None:
        return conversation(project, thread_id)
    if chat.first:
        return None
    for key in (chat.key(before=True), chat.key()):
        found = tasks.search_threads(project, None, {KEY: key, "graph_id": "conversation"}, limit=CANDIDATES)
        seen = [thread for thread in found if _seen(project, thread, chat)]
        if seen or len(found) == 1:
            return (seen or found)[0]
    return None


def _last(project: str, thread: tasks.Thread) -> Span | None:
    runs = tasks.list_runs(project, thread.id, limit=1)
    return span(runs[0]) if runs else None


def _said(part: Span) -> str:
    """What the run's answer was, altogether (blocking)."""
    run, pieces, after = tasks.find_run(part.run.id), [], part.start
    while news := events.read(run.project, stream=run.thread, after=after):
        pieces += [event for event in news if not run.ended or (event.id or 0) <= run.last_event]
        after = news[-1].id or after
    return telling.told(pieces)


def _seen(project: str, thread: tasks.Thread, chat: Chat) -> bool:
    """Whether the page holds our last answer on this thread, or what it was told instead of it."""
    part = _last(project, thread)
    said = _plain(_said(part)) if part else ""
    asked = _plain(telling.asks(thread.interrupts[0]["value"])) if thread.interrupts else said
    return chat.answered != "" and (chat.answered == said or (asked != "" and chat.answered.endswith(asked)))


def _say(project: str, chat: Chat, thread: str | None) -> Heard:
    """Start a run, on a new thread if there is none; the files are read before one is made."""
    said = {"role": "user", "content": chat.last.text.strip() or "Here is a file."}
    files = _files(project, chat.last)
    if thread is None:
        thread = create(project, None, {"title": _plain(chat.last.text)[:80], KEY: chat.key()}).id
    run = start(project, thread, {"input": {"messages": [said], "files": files}})
    tasks.update_thread(thread, metadata={KEY: chat.key()})
    return Heard(thread, span(run))


def _answer(project: str, chat: Chat, thread: tasks.Thread) -> Heard:
    """Forward an answer to what the thread asks, from who has seen it; show it to everybody else."""
    pending = thread.interrupts[0]
    if not _seen(project, thread, chat):
        return Heard(thread.id, prelude=STALE + telling.asks(pending["value"]))
    if chat.last.files:
        remedy = "Answer it without files, or begin a new chat with them."
        raise Conflict("The thread waits for an answer, and files are none.", where="messages", remedy=remedy)
    run = start(project, thread.id, {"command": {"resume": {pending["id"]: chat.last.text.strip()}}})
    tasks.update_thread(thread.id, metadata={KEY: chat.key()})
    return Heard(thread.id, span(run))


def _meanwhile(project: str, chat: Chat, thread: tasks.Thread) -> Heard:
    """Words to a thread that is at work: a wish to stop it, or nothing that could be taken up now."""
    stop = _plain(chat.last.text).strip(".!").lower() in STOP
    for run in tasks.open_runs(project, thread.id):
        if stop:
            jobs.cancel_run(run)
            tasks.update_thread(thread.id, metadata={KEY: chat.key()})
        return Heard(thread.id, span(run), "" if stop else BUSY)
    raise Conflict("The thread is busy.", where=thread.id, remedy="Try again in a moment.")


def _again(project: str, thread: tasks.Thread) -> Heard:
    return Heard(thread.id, _last(project, thread))


def _files(project: str, turn: Turn) -> dict[str, str]:
    """The files of a message, by part or named in its words: the first is to train on, a second to test with.

    Raises:
        NotFound: A part names a file that is not there.
        InvalidRequest: A part holds none.
    """
    ids = [_file(project, part) for part in turn.files] or [
        id for id in FILE.findall(turn.text) if _exists(project, id)
    ]
    return dict(zip(("train", "test"), dict.fromkeys(ids), strict=False))


def _exists(project: str, id: str) -> bool:
    try:
        datasets.get_file(project, id)
    except NotFound:
        return False
    return True


def _file(project: str, part: Mapping[str, Any]) -> str:
    if isinstance(part.get("file_id"), str):
        return datasets.get_file(project, part["file_id"]).id
    data = str(part.get("file_data") or "")
    try:
        raw = base64.b64decode(data.partition("base64,")[2] or data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest("A file is no base64.", where="file.file_data", remedy="Send a data URI.") from error
    if not raw:
        raise InvalidRequest("A file is empty.", where="file", remedy="Send `file_id`, or `file_data` and `filename`.")
    return datasets.add_file(project, str(part.get("filename") or "data.csv"), io.BytesIO(raw)).id
