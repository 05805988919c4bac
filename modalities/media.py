"""Bytes that people bring, as a file or as a data URI: bounded, and nothing is ever fetched."""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moatelier.errors import DataError, InvalidRequest


@dataclass(frozen=True)
class Media:
    """A kind of file, and how much of one is read.

    Attributes:
        name: What it is called in messages; also the first half of its MIME types.
        example: One of its MIME types.
        suffixes: Endings of its files' names, in lower case.
        max_bytes: Of an encoded one.
        smaller: What to do about one with more, a sentence.
    """

    name: Literal["image", "audio"]
    example: str
    suffixes: tuple[str, ...]
    max_bytes: int
    smaller: str


def read_bounded(path: Path, name: str, media: Media) -> bytes:
    """A file's bytes.

    Raises:
        DataError: It cannot be read or has too many bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(media.max_bytes + 1)
    except OSError as error:
        raise DataError(
            f"The {media.name} cannot be read: {error.strerror}.", where=name, remedy="Check the path."
        ) from error
    if len(data) > media.max_bytes:
        raise too_many_bytes(name, media)
    return data


def is_uri(source: str) -> bool:
    """Whether this is a data URI or a URL rather than a path."""
    return source[:5].lower() == "data:" or "://" in source[:20]


def uri_bytes(uri: str, name: str, media: Media) -> bytes:
    """The bytes that stand in a data URI, as requests and tables bring it.

    Raises:
        InvalidRequest: It is no data URI of this kind in base64; a URL is refused as any other.
        DataError: It has too many bytes.
    """
    head = re.match(rf"data:{media.name}/[\w.+-]+(?:;[\w.+-]+=[\w.+-]+)*;base64,", uri[:200], re.IGNORECASE)
    if head is None:
        told = "a URL" if re.match(r"[a-z][a-z0-9+.-]*://", uri[:40], re.IGNORECASE) else f"no data URI of {media.name}"
        raise InvalidRequest(
            f"The {media.name} is {told}, and nothing is fetched from elsewhere.",
            where=name,
            remedy=f"Send it as `data:{media.example};base64,...`.",
        )
    return base64_bytes(uri[head.end() :], name, media)


def base64_bytes(text: str, name: str, media: Media) -> bytes:
    """The bytes that stand in base64. Raises like `uri_bytes`."""
    if len(text) > media.max_bytes * 4 // 3 + 4:
        raise too_many_bytes(name, media)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"The {media.name}'s base64 is broken: {error}.",
            where=name,
            remedy="Encode the file's bytes once, without blanks.",
        ) from error


def too_many_bytes(name: str, media: Media) -> DataError:
    """The refusal of a file that is too large."""
    limit = f"{media.max_bytes // 2**20} MB"
    return DataError(f"The {media.name} file has more than {limit}.", where=name, remedy=media.smaller)
