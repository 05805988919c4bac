"""CSV and JSON lines to a table of records, each with its row and line number; everything odd is refused by place."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moatelier.errors import DataError
from modalities.text.decoding import Decoded, decode
from modalities.text.dialect import plain

_DELIMITERS = (",", "\t", ";", "|")
_SNIFFED_RECORDS = 50
_LONGEST_CELL = 64 * 2**20
"""Characters: an image or a recording as a data URI is far longer than the 131,072 that Python allows otherwise."""
csv.field_size_limit(_LONGEST_CELL)


@dataclass(frozen=True)
class Record:
    """One data row: `number` counts data rows from 1, `line` is the file's line it starts on, from 1."""

    number: int
    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A file's content. `encoding` is fit to be shown, with the confidence where it was guessed."""

    name: str
    format: Literal["csv", "jsonl"]
    encoding: str
    columns: tuple[str, ...]
    records: list[Record]


def place(name: str, row: int = 0, line: int = 0, field: str = "") -> str:
    """Where something is wrong, in one form everywhere: `orders.csv, row 12, line 14, field intent`."""
    parts = [name, f"row {row}" if row else "", f"line {line}" if line else "", f"field {field}" if field else ""]
    return ", ".join(part for part in parts if part)


def as_text(value: Any) -> str | None:
    """A scalar cell as stripped text ("" when empty); None for lists, objects and text that is not valid Unicode."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value.strip()


def read_table(path: Path, name: str) -> Table:
    """Read an uploaded file.

    Args:
        path: Where it lies.
        name: What its owner calls it; used in messages and, by its suffix, as a hint of the format.

    Raises:
        DataError: The file cannot be read as a table; `where` names file, row and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"The file cannot be read: {error.strerror}.", where=name, remedy="Check the path and upload it again."
        ) from error
    return parse_table(data, name)


def parse_table(data: bytes, name: str) -> Table:
    """As `read_table`, of a file's bytes."""
    decoded = decode(data, name)
    table = _read_jsonl(decoded, name) if _is_jsonl(decoded.text, name) else _read_csv(decoded, name)
    if not table.records:
        raise DataError("The file has no data rows.", where=name, remedy="Add rows below the header.")
    return table


def _is_jsonl(text: str, name: str) -> bool:
    suffix = Path(name).suffix.lower()
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return True
    return suffix not in {".csv", ".tsv"} and text.lstrip()[:1] in {"{", "["}


# ---------------------------------------------------------------- JSON lines


def _read_jsonl(decoded: Decoded, name: str) -> Table:
    if decoded.text.lstrip()[:1] == "[":
        raise DataError(
            "The file is one JSON array, not JSON lines.", where=name, remedy="Write one JSON object on each line."
        )
    records: list[Record] = []
    columns: dict[str, None] = {}
    # Not splitlines: U+2028 and friends may stand inside a JSON string.
    for line, text in enumerate(decoded.text.split("\n"), start=1):
        if text.strip():
            values = _json_object(text, name, len(records) + 1, line)
            columns |= dict.fromkeys(values)
            records.append(Record(len(records) + 1, line, values))
    return Table(name, "jsonl", decoded.label, tuple(columns), records)


def _json_object(text: str, name: str, row: int, line: int) -> dict[str, Any]:
    where = place(name, row, line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            f"The line is not valid JSON: {reason}.", where=where, remedy="Write one complete JSON object on each line."
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"The line holds a JSON {type(value).__name__}, not an object.",
            where=where,
            remedy='Write an object such as {"messages": [...]} on each line.',
        )
    return plain(value)


# ---------------------------------------------------------------- CSV


def _read_csv(decoded: Decoded, name: str) -> Table:
    rows = list(_csv_rows(decoded.text, _delimiter(decoded.text, name), name))
    header_line, cells = rows[0]
    header, body = [cell.strip() for cell in cells], rows[1:]
    used = _used_columns(header, body, name, header_line)
    records = []
    for number, (line, fields) in enumerate(body, start=1):
        if len(fields) != len(header):
            raise DataError(
                f"The row has {len(fields)} fields where the header has {len(header)}.",
                where=place(name, number, line),
                remedy='Put text that holds the delimiter between double quotes ("...").',
            )
        if any(field.strip() for field in fields):  # spreadsheets like to end with rows of empty cells
            records.append(Record(number, line, {header[i]: fields[i] for i in used}))
    _check_header(header, records, name, header_line)
    return Table(name, "csv", decoded.label, tuple(header[i] for i in used), records)


def _csv_rows(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    row, start = -1, 1
    try:
        for fields in reader:
            if fields:
                row += 1
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"The row cannot be parsed: {error}.",
            where=place(name, max(row + 1, 0), start),
            remedy="Close every double quote, and write a quote inside quoted text twice.",
        ) from error


def _delimiter(text: str, name: str) -> str:
    # The delimiter that splits the first records most evenly wins; csv.Sniffer is misled by quotes and apostrophes.
    if Path(name).suffix.lower() == ".tsv":
        return "\t"
    scores = {}
    for rank, delimiter in enumerate(_DELIMITERS):
        widths = Counter(_widths(text, delimiter))
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        scores[delimiter] = (width > 1, count / max(1, widths.total()) if width > 1 else 0.0, -rank)
    return max(scores, key=scores.__getitem__)


def _widths(text: str, delimiter: str) -> Iterator[int]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for count, fields in enumerate(reader):
            if count == _SNIFFED_RECORDS:
                return
            if fields:
                yield len(fields)
    except csv.Error:
        return  # the full read says where


def _used_columns(header: list[str], body: list[tuple[int, list[str]]], name: str, line: int) -> list[int]:
    # A column without a name and without values is only a trailing delimiter.
    used = []
    for index, title in enumerate(header):
        if title:
            used.append(index)
        elif any(index < len(fields) and fields[index].strip() for _, fields in body):
            raise DataError(
                f"Column {index + 1} has values but no name.",
                where=place(name, line=line),
                remedy="Give every column a name in the first line.",
            )
    repeated = [title for title, count in Counter(header[i] for i in used).items() if count > 1]
    if repeated:
        raise DataError(
            f"The header names {repeated[0]!r} twice.",
            where=place(name, line=line, field=repeated[0]),
            remedy="Give every column a name of its own.",
        )
    return used


def _check_header(header: list[str], records: list[Record], name: str, line: int) -> None:
    titles = [title for title in header if title]
    for record in records:
        if all(str(record.values[title]).strip() == title for title in titles):
            raise DataError(
                "The row repeats the header.",
                where=place(name, record.number, record.line),
                remedy="Delete the line; it is left over from joining two files.",
            )
    for title in titles:
        values = sum(str(record.values[title]).strip() == title for record in records)
        # One such value in many rows is chance; labels come back all the time.
        if values > len(records) // 50 or _is_sentence(title):
            reason = f"stands below {values} times as a value" if values else "is a sentence"
            raise DataError(
                f"The first line is no header: {title[:60]!r} {reason}.",
                where=place(name, line=line),
                remedy="Add a first line that names the columns, such as `text,label`.",
            )


def _is_sentence(title: str) -> bool:
    words = len(title.split())
    return words >= 8 or (words >= 3 and title[-1] in ".?!")
