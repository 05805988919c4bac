"""A transcript in the five forms that clients ask for."""

import json
from collections.abc import Mapping
from typing import Any, Literal

Form = Literal["json", "text", "srt", "vtt", "verbose_json"]
FORMS: tuple[Form, ...] = ("json", "text", "srt", "vtt", "verbose_json")
TYPES: Mapping[Form, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
TIMED = frozenset({"srt", "vtt", "verbose_json"})
"""Forms that tell when each phrase is said."""


def written(whole: Mapping[str, Any], form: Form) -> str:
    """The body of the answer.

    Args:
        whole: As `verbose_json`.
        form: What the client wants.
    """
    if form == "text":
        return f"{whole['text']}\n"
    if form == "srt":
        cues = [
            f"{number}\n{_time(cue['start'], ',')} --> {_time(cue['end'], ',')}\n{cue['text']}\n"
            for number, cue in enumerate(whole["segments"], start=1)
        ]
        return "\n".join(cues)
    if form == "vtt":
        cues = [
            f"{_time(cue['start'], '.')} --> {_time(cue['end'], '.')}\n{cue['text']}\n" for cue in whole["segments"]
        ]
        return "\n".join(["WEBVTT\n", *cues])
    if form == "verbose_json":
        return json.dumps(whole, ensure_ascii=False)
    kept = ("text", "usage", "moatelier")
    return json.dumps({name: whole[name] for name in kept if name in whole}, ensure_ascii=False)


def _time(seconds: float, point: str) -> str:
    """Hours, minutes, seconds and milliseconds, `00:00:01.250`."""
    whole = round(1000 * seconds)
    hours, rest = divmod(whole, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
