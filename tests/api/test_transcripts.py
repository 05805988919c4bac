"""A transcript in the forms of the dialect."""

import json
from typing import Any

from api import transcripts

WHOLE: dict[str, Any] = {
    "task": "transcribe",
    "language": "en",
    "duration": 3723.5,
    "text": "One. Two.",
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.25, "text": "One."},
        {"id": 1, "start": 3721.0004, "end": 3723.4996, "text": "Two."},
    ],
    "usage": {"type": "duration", "seconds": 3723.5},
}


def test_plain_forms() -> None:
    assert transcripts.written(WHOLE, "text") == "One. Two.\n"
    assert json.loads(transcripts.written(WHOLE, "json")) == {"text": "One. Two.", "usage": WHOLE["usage"]}
    assert json.loads(transcripts.written(WHOLE, "verbose_json")) == WHOLE


def test_subtitles_tell_times_in_milliseconds() -> None:
    assert transcripts.written(WHOLE, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\nOne.\n\n2\n01:02:01,000 --> 01:02:03,500\nTwo.\n"
    )
    assert transcripts.written(WHOLE, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nOne.\n\n01:02:01.000 --> 01:02:03.500\nTwo.\n"
    )


def test_silence_has_no_cues() -> None:
    empty = WHOLE | {"text": "", "segments": []}
    assert transcripts.written(empty, "srt") == ""
    assert transcripts.written(empty, "vtt") == "WEBVTT\n"
    assert transcripts.written(empty, "text") == "\n"
