"""Log lines: JSON for machines, text for people, and never what somebody said."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from moatelier import logs
from moatelier.errors import DataError
from moatelier.settings import settings

SAID = "my-private-words"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Configures logging as the settings say; gives what has been written since."""
    root, kept = logging.getLogger(), (list(logging.getLogger().handlers), logging.getLogger().level)
    place = io.StringIO()

    def configured(**variables: str) -> io.StringIO:
        for name, value in variables.items():
            monkeypatch.setenv(f"MOATELIER_{name}", value)
        settings.cache_clear()
        logs.configure("api", place)
        return place

    yield configured
    root.handlers, root.level = kept[0], kept[1]
    settings.cache_clear()


def test_json_is_the_form_where_no_person_reads(lines: Any) -> None:
    place = lines()
    logging.getLogger("moatelier.x").info("done\n%s", "twice", extra={logs.FIELDS: {"seconds": 0.5}})
    [line] = place.getvalue().splitlines()
    told = json.loads(line)
    assert told | {"time": ""} == {
        "time": "",
        "level": "INFO",
        "role": "api",
        "logger": "moatelier.x",
        "message": "done\ntwice",
        "seconds": 0.5,
    }
    assert told["time"].endswith("+00:00")


def test_text_stays_on_its_line(lines: Any) -> None:
    place = lines(LOG_FORMAT="text")
    logging.getLogger("moatelier.x").warning("a\nb\x1b[2J %s", "ü", extra={logs.FIELDS: {"route": "/x"}})
    [line] = place.getvalue().splitlines()
    assert line.endswith(r"WARNING moatelier.x a\nb\x1b[2J ü route=/x")


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_words_of_foreign_exceptions_are_for_debugging(lines: Any, form: str) -> None:
    def fail(error: Exception) -> str:
        place = lines(LOG_FORMAT=form)
        place.seek(0)
        place.truncate()
        try:
            raise error
        except Exception:
            logging.getLogger("moatelier.x").exception("it failed")
        return str(place.getvalue())

    told = fail(KeyError(SAID))
    assert SAID not in told and "KeyError" in told and "test_logs.py" in told
    assert "Row 3 is empty." in fail(DataError("Row 3 is empty."))
    lines(LOG_LEVEL="DEBUG")
    assert SAID in fail(KeyError(SAID))


def test_libraries_with_a_line_for_everything_are_quiet(lines: Any) -> None:
    """Whatever the level: sse_starlette would write down every chunk of every answer."""
    place = lines(LOG_LEVEL="DEBUG")
    logging.getLogger("httpx").info("HTTP Request: POST http://127.0.0.1 200")
    logging.getLogger("sse_starlette.sse").debug(SAID)
    assert place.getvalue() == ""
