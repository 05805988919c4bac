"""What stands in messages beside words: pictures and recordings, in the OpenAI dialect or as rows name their artifacts.

    [{"type": "text", "text": "What is this?"},
     {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}},
     {"type": "input_audio", "input_audio": {"data": "<base64>", "format": "wav"}}]

`audio_url` is vLLM's name for a recording in a data URI. Nothing is ever fetched. Imports no torch.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moatelier.errors import InvalidRequest
from modalities.audio import sound
from modalities.media import base64_bytes, uri_bytes
from modalities.vision import images
from store import artifacts

Medium = Literal["image", "audio"]
TEXT = "text"


@dataclass(frozen=True)
class Part:
    """A picture or a recording.

    Attributes:
        medium: Which of the two.
        data: The encoded file.
        where: The place in the request, for messages.
    """

    medium: Medium
    data: bytes
    where: str


def _url(part: Mapping[str, Any], where: str, name: str) -> str:
    found = part[name]
    url = found.get("url") if isinstance(found, Mapping) else found
    if not isinstance(url, str):
        raise InvalidRequest("There is no URL.", where=where, remedy=f'Send {{"url": "data:..."}} as `{name}`.')
    return url


def _image(part: Mapping[str, Any], where: str) -> Part:
    return Part("image", uri_bytes(_url(part, where, "image_url"), where, images.media()), where)


def _audio(part: Mapping[str, Any], where: str) -> Part:
    return Part("audio", uri_bytes(_url(part, where, "audio_url"), where, sound.media()), where)


def _input_audio(part: Mapping[str, Any], where: str) -> Part:
    found = part["input_audio"]
    data = found.get("data") if isinstance(found, Mapping) else None
    if not isinstance(data, str):
        remedy = 'Send {"data": "<base64>", "format": "wav"} as `input_audio`.'
        raise InvalidRequest("There is no recording.", where=where, remedy=remedy)
    return Part("audio", base64_bytes(data, where, sound.media()), where)


_READ: Mapping[str, Callable[[Mapping[str, Any], str], Part]] = {
    "image_url": _image,
    "audio_url": _audio,
    "input_audio": _input_audio,
}


def media(messages: Sequence[Mapping[str, Any]], *, stored: bool = False) -> list[Part]:
    """The pictures and recordings of a conversation, in order.

    Args:
        messages: As chat completions take them.
        stored: Take `{"type": "image", "artifact": "<digest>"}` and the same with `audio` too. Never for what comes
            from outside: whoever knows a digest would see anybody's file.

    Raises:
        InvalidRequest: A part of an unknown type, a URL, broken base64.
        DataError: Too many bytes.
        NotFound, IntegrityError: An artifact is gone or was changed.
    """
    found = []
    for number, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            where = f"messages[{number}].content[{place}]"
            kind = str(part.get("type")) if isinstance(part, Mapping) else ""
            if kind == TEXT:
                continue
            if stored and kind in ("image", "audio"):
                data = artifacts.get_bytes(part["artifact"])
                found.append(Part("image" if kind == "image" else "audio", data, where))
            elif kind in _READ and kind in part:
                found.append(_READ[kind](part, f"{where}.{kind}"))
            else:
                raise InvalidRequest(
                    f"A message has no parts of type {kind!r}.",
                    where=where,
                    remedy=f"Use one of {', '.join((TEXT, *_READ))}, each with a field of that name.",
                )
    return found


_STARTS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "audio/webm"),
    (b"FORM", "audio/aiff"),
)
"""First bytes of a file -> what it is, for those who are sent it; here it is told by its content again."""


def sendable(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as a client would send it: with data URIs where rows name their artifacts.

    Raises:
        NotFound, IntegrityError: An artifact is gone or was changed.
    """
    return [
        {**message, "content": [_sent(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else dict(message)
        for message in messages
    ]


def _sent(part: Mapping[str, Any]) -> dict[str, Any]:
    if "artifact" not in part:
        return dict(part)
    data, kind = artifacts.get_bytes(part["artifact"]), f"{part['type']}_url"
    usual = {b"WEBP": "image/webp", b"ftyp": "audio/mp4"}.get(data[8:12] if data[:4] == b"RIFF" else data[4:8])
    fallback = "image/png" if part["type"] == "image" else "audio/wav"
    told = usual or next((name for start, name in _STARTS if data.startswith(start)), fallback)
    return {"type": kind, kind: {"url": f"data:{told};base64,{base64.b64encode(data).decode()}"}}


def last(messages: Sequence[Mapping[str, Any]], medium: Medium, *, stored: bool = False) -> Part | None:
    """The picture or recording that a conversation asks about: the last one. Raises as `media` does."""
    return next((part for part in reversed(media(messages, stored=stored)) if part.medium == medium), None)


def holds(message: Mapping[str, Any], medium: Medium) -> bool:
    """Whether a message has a picture or a recording, however it is named, without reading it."""
    content = message.get("content")
    kinds = {medium, f"{medium}_url", f"input_{medium}"}
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and part.get("type") in kinds for part in content
    )


def mediums(messages: Sequence[Mapping[str, Any]]) -> tuple[Medium, ...]:
    """Which kinds a conversation holds, without reading them."""
    kinds = [
        str(part.get("type"))
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, Mapping)
    ]
    found: list[Medium] = []
    if "image_url" in kinds:
        found.append("image")
    if "audio_url" in kinds or "input_audio" in kinds:
        found.append("audio")
    return tuple(found)


def raw(messages: Sequence[Mapping[str, Any]], medium: Medium) -> dict[str, Any] | None:
    """The last picture or recording as it stands in the conversation, unread, to be passed on."""
    kinds = ("image_url",) if medium == "image" else ("audio_url", "input_audio")
    for message in reversed(messages):
        content = message.get("content")
        held: list[Any] = content if isinstance(content, list) else []
        for part in reversed(held):
            if isinstance(part, Mapping) and part.get("type") in kinds:
                return dict(part)
    return None


def words(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as a text model takes it: without pictures and recordings, which others are asked about."""
    kept = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            texts = [part for part in content if isinstance(part, Mapping) and part.get("type") == TEXT]
            kept.append({**message, "content": texts})
        else:
            kept.append(dict(message))
    return kept


def shown(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as a template takes it: texts only, and `picture` in the message that has the last picture."""
    place = next((n for n in reversed(range(len(messages))) if holds(messages[n], "image")), None)
    turns = []
    for number, message in enumerate(words(messages)):
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)
        turns.append({"role": message["role"], "content": text} | ({"picture": True} if number == place else {}))
    return turns
