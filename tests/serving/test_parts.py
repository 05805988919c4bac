"""Pictures and recordings in messages: every form that clients send, and what is refused."""

import base64
from pathlib import Path
from typing import Any

import pytest

from moatelier.errors import InvalidRequest
from serving import parts
from store import artifacts

PNG, WAV = b"\x89PNG...", b"RIFF..."


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded(PNG)}"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": coded(WAV), "format": "wav"}}
WORDS = {"type": "text", "text": "What is this?"}


def asked(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Answer."}, {"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF....WEBP", "image/webp"),
        (b"RIFF....WAVE", "audio/wav"),
        (b"....ftypM4A ", "audio/mp4"),
        (b"fLaC", "audio/flac"),
    ],
)
def test_what_rows_name_is_sent_as_clients_send_it(home: Path, data: bytes, told: str) -> None:
    medium = told.partition("/")[0]
    stored = {"type": medium, "artifact": artifacts.put_bytes(data)}
    [turn] = parts.sendable([{"role": "user", "content": [WORDS, stored]}])
    url = {"url": f"data:{told};base64,{coded(data)}"}
    assert turn["content"] == [WORDS, {"type": f"{medium}_url", f"{medium}_url": url}]
    assert [part.data for part in parts.media([turn])] == [data]
    assert parts.sendable([{"role": "user", "content": "words"}]) == [{"role": "user", "content": "words"}]


def test_finds_pictures_and_recordings_in_the_order_of_the_message() -> None:
    found = parts.media(asked(WORDS, IMAGE, AUDIO))
    assert [(part.medium, part.data) for part in found] == [("image", PNG), ("audio", WAV)]
    assert found[0].where == "messages[1].content[1].image_url"


def test_takes_the_url_also_as_plain_text_and_vllms_name_for_recordings() -> None:
    uri = f"data:audio/wav;base64,{coded(WAV)}"
    plain = {"type": "image_url", "image_url": f"data:image/png;base64,{coded(PNG)}"}
    assert [part.data for part in parts.media(asked(plain, {"type": "audio_url", "audio_url": {"url": uri}}))] == [
        PNG,
        WAV,
    ]


def test_the_last_picture_is_the_one_that_is_asked_about() -> None:
    other = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded(b'later')}"}}
    part = parts.last(asked(IMAGE, other), "image")
    assert part is not None and part.data == b"later"
    assert parts.last(asked(IMAGE), "audio") is None


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}, "a URL"),
        ({"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}, "no data URI"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,&&&"}}, "base64"),
        ({"type": "image_url", "image_url": {}}, "no URL"),
        ({"type": "image_url"}, "'image_url'"),
        ({"type": "input_audio", "input_audio": "loud"}, "no recording"),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, "'video_url'"),
        ({"type": "image", "artifact": "0" * 64}, "'image'"),
        ("words", "of type ''"),
    ],
)
def test_refuses_what_it_cannot_take_and_says_where(part: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as refusal:
        parts.media(asked(WORDS, part))
    assert refusal.value.where.startswith("messages[1].content[1]")


def test_artifacts_are_read_for_rows_only(home: object) -> None:
    digest = artifacts.put_bytes(PNG)
    assert parts.media(asked({"type": "image", "artifact": digest}), stored=True)[0].data == PNG


def test_a_text_model_gets_the_words_alone() -> None:
    left = parts.words(asked(WORDS, IMAGE, AUDIO))
    assert left[0]["content"] == "Answer." and left[1]["content"] == [WORDS]


def test_tells_what_a_conversation_holds_without_reading_it() -> None:
    broken = {"type": "image_url", "image_url": {"url": "no uri at all"}}
    assert parts.mediums(asked(WORDS, AUDIO, broken)) == ("image", "audio")
    assert parts.mediums(asked(WORDS)) == ()


def test_a_conversation_is_shown_its_last_picture_in_its_place() -> None:
    picture = {"type": "image", "artifact": "0" * 64}
    turns = parts.shown(
        [
            {"role": "user", "content": [picture, {"type": "text", "text": "and "}, {"type": "text", "text": "now"}]},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": [{"type": "text", "text": "what?"}, picture]},
            {"role": "user", "content": None},
        ]
    )
    assert [turn["content"] for turn in turns] == ["and now", "yes", "what?", ""]
    assert [bool(turn.get("picture")) for turn in turns] == [False, False, True, False]
    assert not parts.holds({"content": "image"}, "image") and not parts.holds({"content": [picture]}, "audio")
