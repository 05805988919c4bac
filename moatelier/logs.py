"""What the processes log: one line each, as JSON for machines or as text for a terminal. Never what people said.

    logs.configure("api")

The words of an exception that is not ours may quote anything (`KeyError: 'the prompt'`), so that only its type and the
places in the code are written, unless the level is DEBUG.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from moatelier.errors import MoatelierError
from moatelier.settings import settings

FIELDS = "fields"
"""Attribute of a log record with what else belongs to its line: `log.info("request", extra={FIELDS: {...}})`."""
QUIET = (
    "httpx",
    "httpx2",
    "httpcore",
    "openai",
    "sse_starlette",
    "sqlalchemy",
    "alembic",
    "python_multipart",
    "asyncio",
)
"""Libraries with a line for everything they do: when debugging, some of them write down every chunk of every answer."""


class JsonLines(logging.Formatter):
    """A record as one JSON object.

    Args:
        role: Which process this is.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = told(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """A record for people: one line, and below it where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; what could end it, or move a terminal's cursor, is written as an escape."""
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in getattr(record, FIELDS, {}).items())
        line = _visible(f"{clock} {record.levelname:<7} {record.name} {record.getMessage()}{fields}")
        return line + (f"\n{told(record.exc_info)}" if record.exc_info else "")


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def told(
    caught: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    """An exception's type and places; its words where they are ours, or where the level is DEBUG."""
    kind, error, trace = caught
    if kind is None:
        return ""
    places = "".join(traceback.format_tb(trace))
    words = str(error) if isinstance(error, MoatelierError) or settings().log_level == "DEBUG" else ""
    return f"{places}{kind.__name__}" + (f": {words}" if words else "")


def configure(role: str, stream: TextIO | None = None) -> None:
    """Send all log lines of this process to standard error, in the form and from the level of the settings."""
    place = stream or sys.stderr
    form = settings().log_format
    as_text = form == "text" or (form == "auto" and place.isatty())
    handler = logging.StreamHandler(place)
    handler.setFormatter(TextLines() if as_text else JsonLines(role))
    logging.basicConfig(level=settings().log_level, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
