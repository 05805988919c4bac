"""From the bytes of an uploaded file to text, with the encoding and how sure we are of it."""

import codecs
from dataclasses import dataclass

from charset_normalizer import from_bytes
from charset_normalizer.models import CharsetMatch

from moatelier.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a Parquet file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"SQLite format 3", "a SQLite database"),
)
_SAVE_AS_UTF8 = "Save the file again as UTF-8 (in a spreadsheet: export as `CSV UTF-8`)."
_LEAST_CONFIDENCE = 0.6
_LEGACY = ("utf_16_le", "utf_16_be", *(f"cp125{page}" for page in range(8)))
_LEGACY += ("cp932", "gb18030", "big5", "cp949", "euc_jp")
"""What spreadsheets of today write when they do not write UTF-8; with older code pages every guess gets worse."""


@dataclass(frozen=True)
class Decoded:
    """A file's text. `encoding` names the codec, `confidence` is 1 unless it had to be guessed."""

    text: str
    encoding: str
    confidence: float

    @property
    def label(self) -> str:
        """The encoding as it is shown to a person."""
        return self.encoding if self.confidence == 1 else f"{self.encoding} (confidence {self.confidence:.2f})"


def decode(data: bytes, name: str) -> Decoded:
    """Decode a file's bytes.

    Tried in order: a byte order mark, strict UTF-8, then charset-normalizer's guess for legacy encodings and for
    UTF-16 without a mark.

    Raises:
        DataError: The file is empty, binary, damaged, or its encoding cannot be told.
    """
    if not data.strip():
        raise DataError("The file is empty.", where=name, remedy="Send a file with a header line and data rows.")
    for magic, what in _BINARY:
        if data.startswith(magic):
            raise DataError(f"The file is {what}, not text.", where=name, remedy="Export it as CSV or JSON lines.")
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return _with_mark(data, codec, name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_damaged_utf8(data, error, name)
        return _guess(data, error, name)
    if "\0" in text:
        return _guess(data, None, name)
    return Decoded(text, "utf-8", 1.0)


def _with_mark(data: bytes, codec: str, name: str) -> Decoded:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise DataError(
            f"The file claims to be {codec} but breaks at byte {error.start}.",
            where=_line_of(data, error.start, name),
            remedy=_SAVE_AS_UTF8,
        ) from error
    if not text.strip():
        raise DataError("The file is empty.", where=name, remedy="Send a file with a header line and data rows.")
    return Decoded(text, codec, 1.0)


def _refuse_damaged_utf8(data: bytes, error: UnicodeDecodeError, name: str) -> None:
    # A legacy encoding hardly ever forms valid multi-byte sequences; a file that has mostly those was UTF-8 once, and
    # guessing another encoding would turn every accent into two wrong letters.
    text = data.decode("utf-8", "surrogateescape")
    escaped = sum("\udc80" <= char <= "\udcff" for char in text)
    multibyte = sum(char > "\x7f" for char in text) - escaped
    if multibyte >= escaped:
        raise DataError(
            f"Byte {data[error.start]:#04x} is not valid UTF-8, although the rest of the file is UTF-8.",
            where=_line_of(data, error.start, name),
            remedy="Repair that character and save the file as UTF-8.",
        )


def _guess(data: bytes, error: UnicodeDecodeError | None, name: str) -> Decoded:
    matches = from_bytes(data, cp_isolation=list(_LEGACY))
    best = matches.best()
    if best is None or "\0" in str(best):
        raise DataError("The file is binary, not text.", where=name, remedy="Send CSV or JSON lines in UTF-8.")
    rivals = [match for match in matches if _as_likely(match, best)]
    chosen = next((match for match in rivals if "cp1252" in match.could_be_from_charset), best)
    confidence = _confidence(chosen, ambiguous=any(str(match) != str(chosen) for match in rivals))
    if confidence < _LEAST_CONFIDENCE:
        place = _line_of(data, error.start, name) if error else name
        raise DataError(
            f"The file is not UTF-8 and its encoding cannot be told ({best.encoding} is a mere guess).",
            where=place,
            remedy=_SAVE_AS_UTF8,
        )
    encoding = "cp1252" if "cp1252" in chosen.could_be_from_charset else chosen.encoding
    return Decoded(str(chosen), encoding, confidence)


def _as_likely(match: CharsetMatch, best: CharsetMatch) -> bool:
    # A few accents tell the code pages of east and west hardly apart; then the western one, by far the commonest, wins.
    return match.chaos <= best.chaos + 0.02 and match.coherence >= best.coherence - 0.05


def _confidence(match: CharsetMatch, *, ambiguous: bool) -> float:
    # Chaos is the share of unlikely characters. Text in which no language is recognised is worth half.
    language = 1.0 if match.coherence >= 0.25 else 0.5 + match.coherence
    return min(0.99, (1 - match.chaos) * language * (0.75 if ambiguous else 1.0))


def _line_of(data: bytes, position: int, name: str) -> str:
    line = data[:position].count(b"\n") + 1
    return f"{name}, line {line}"
