"""`moatelier predict`: one text, or every row of a CSV, answered and written down as the answers come."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import track

from moatelier.client import Client
from moatelier.errors import DataError, InvalidRequest

Row = dict[str, str]
ADDED = "prediction"


def predict(client: Client, model: str, rows: list[Row], column: str, output: Path | None, as_json: bool) -> None:
    """Answer rows in order; each is written before the next is asked, so that a failure loses nothing.

    Raises:
        InvalidRequest: The output cannot be written.
        MoatelierError: What the service answered.
    """
    client.call("GET", f"/v1/models/{model}")  # an unknown model must not cost the person an output file
    with _writer(list(rows[0]), output, as_json) as write:
        for row in track(rows, "predict", console=Console(stderr=True), disable=output is None):
            write({**row, ADDED: client.answer(model, row[column])})


@contextmanager
def _writer(columns: list[str], output: Path | None, as_json: bool) -> Iterator[Callable[[Row], object]]:
    if output is None:
        yield lambda row: print(json.dumps(row, ensure_ascii=False) if as_json else row[ADDED], flush=True)
        return
    try:
        file = output.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidRequest(
            f"The output cannot be written: {error.strerror}.", where=str(output), remedy="Name another file."
        ) from error
    with file:
        table = csv.DictWriter(file, fieldnames=list(dict.fromkeys([*columns, ADDED])))
        table.writeheader()
        yield table.writerow
    print(output, file=sys.stderr)


def read_rows(path: Path, column: str | None) -> tuple[list[Row], str]:
    """A CSV's rows and the column to read: the named one, else the first.

    Raises:
        DataError: No such file, no rows, or no such column.
    """
    if not path.is_file():
        raise DataError("There is no such file.", where=str(path), remedy="Check the path.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file, restval="")]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"The file cannot be read: {error}.", where=str(path), remedy="Save it as UTF-8 CSV."
        ) from error
    for number, row in enumerate(rows, start=1):
        if None in row:
            what, remedy = "The row has more cells than the header.", "Quote cells that hold commas."
            raise DataError(what, where=f"{path}, row {number}", remedy=remedy)
    if not rows:
        raise DataError("The file has no rows.", where=str(path), remedy="Give a CSV with a header and rows.")
    source = column or next(iter(rows[0]))
    if source not in rows[0]:
        raise DataError(f"There is no column {source!r}.", where=str(path), remedy=f"It has {', '.join(rows[0])}.")
    return rows, source
