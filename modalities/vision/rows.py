"""Images with their labels or captions as rows, whether folders name the classes or a table does."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from moatelier.contracts import ImageColumns, RowProblem
from moatelier.errors import DataError, InvalidRequest
from moatelier.ids import digest_json
from modalities.files import Files
from modalities.listing import (
    guess_roles,
    media_in,
    parts_in,
    read_media,
    require_columns,
    require_part,
    table_in,
    within,
)
from modalities.text.reading import Record, Table, as_text, parse_table, place
from modalities.text.rows import text_problem
from modalities.vision.duplicates import Look, look_at
from modalities.vision.images import SUFFIXES, decode_image, media

_ROLES: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "path", "filename", "file_name", "filepath", "image_path", "img", "picture", "photo"),
    "label": ("label", "class", "category", "target", "species", "kind"),
    "caption": ("caption", "text", "description", "title", "alt"),
    "group": ("group", "source", "patient", "author", "site", "camera", "user"),
    "licence": ("licence", "license"),
}
"""Role -> names of columns that usually play it, best first."""


@dataclass(frozen=True)
class ImageRow:
    """One image.

    Attributes:
        number: Row in its table, or place among the sorted images, from 1.
        image: Digest of the artifact with the encoded image; empty when `problem` is set.
        pixels: Digest of what is seen, see `Look`.
        label: Its class, for classification.
        caption: Words that belong to it.
        group: Rows of one group stay in one split.
        licence: As the table says.
        file: What the owner calls the folder, archive or table.
        path: The image's path within, or "data URI".
        line: The table's line, from 1.
        problem: Why the row cannot be used at all.
        look: What the image looks like; None once rows were written and parsed.
    """

    number: int
    image: str = ""
    pixels: str = ""
    label: str | None = None
    caption: str | None = None
    group: str | None = None
    licence: str | None = None
    file: str = ""
    path: str = ""
    line: int = 0
    problem: RowProblem | None = None
    look: Look | None = None

    @property
    def id(self) -> str:
        """16 hex digits, a hash of pixels, label and caption: equal content has equal ids."""
        return digest_json([self.pixels, self.label, self.caption])[:16]

    @property
    def place(self) -> str:
        """File, row and the image's path, for messages."""
        where = place(self.file, self.number, self.line)
        return f"{where}: {self.path}" if self.path else where


@dataclass(frozen=True)
class Listed:
    """A row whose image has not been looked at; `source` is its path within the files, or a data URI."""

    row: ImageRow
    source: str


def list_rows(files: Files, columns: ImageColumns | None, part: str | None, table: Table | None) -> list[Listed]:
    """The rows there are, without looking at any image.

    Args:
        files: Where the images lie.
        columns: Of the table; None takes what they seem to be.
        part: Only what lies in this folder, or in the table of this name.
        table: One that came beside the files; None takes one among them, and without any, folders name the classes.

    Raises:
        DataError: There are no images, no classes, several tables, or a column is missing.
    """
    if table is not None:
        return _from_table(table, "", columns)
    if path := table_in(files, media(), part, columns is not None):
        return _from_table(parse_table(files.read(path), f"{files.name}: {path}"), path, columns)
    return _from_folders(files, part)


def guess_columns(table: Table) -> ImageColumns | None:
    """What the columns seem to be, by their names; None when none could be the image or none tells of it."""
    found = guess_roles(table, _ROLES)
    if found["image"] is None or not (found["label"] or found["caption"]):
        return None
    return ImageColumns.model_validate(found)


def look(files: Files, listed: Listed, keep: Callable[[bytes], str]) -> ImageRow:
    """Look at a row's image and keep it; a row whose image cannot be used gets its `problem`."""
    row = listed.row
    if row.problem is not None:
        return row
    try:
        data = read_media(files, listed.source, row.place, media())
        seen = look_at(decode_image(data, row.place))
    except InvalidRequest as error:  # a DataError is one too
        issue = RowProblem(row=row.number, line=row.line, field="image", reason=error.what, remedy=error.remedy)
        return replace(row, problem=issue)
    return replace(row, image=keep(data), pixels=seen.pixels, look=seen)


def _from_folders(files: Files, part: str | None) -> list[Listed]:
    require_part(files, media(), part)
    depth = 1 if parts_in(files, media()) else 0
    chosen = [path for path in media_in(files, media()) if part is None or path.startswith(f"{part}/")]
    if not chosen:
        raise DataError("There are no images.", where=files.name, remedy=f"Known endings are {', '.join(SUFFIXES)}.")
    rows = [_in_folder(files.name, number, path, depth) for number, path in enumerate(chosen, start=1)]
    if all(listed.row.problem for listed in rows):
        raise DataError(
            "No folders name the classes, and no table does.",
            where=files.name,
            remedy="Put each class's images into a folder of its name, or add a table `image,label`.",
        )
    return rows


def _in_folder(name: str, number: int, path: str, depth: int) -> Listed:
    folders = path.split("/")[:-1]
    if len(folders) <= depth:
        issue = RowProblem(
            row=number, field="label", reason="The image lies in no class's folder.", remedy="Move or delete it."
        )
        return Listed(ImageRow(number, file=name, path=path, problem=issue), path)
    return Listed(ImageRow(number, label=folders[depth], file=name, path=path), path)


def _from_table(table: Table, path: str, columns: ImageColumns | None) -> list[Listed]:
    chosen = columns or guess_columns(table)
    if chosen is None:
        raise DataError(
            "No column names the images, or none their labels or captions.",
            where=table.name,
            remedy=f"Name them; the columns are {', '.join(table.columns)}.",
        )
    _check_columns(table, chosen)
    folder = PurePosixPath(path).parent
    return [_record(table.name, record, chosen, folder) for record in table.records]


def _check_columns(table: Table, columns: ImageColumns) -> None:
    require_columns(table, columns.model_dump())
    if not (columns.label or columns.caption):
        raise DataError("No column is named as label or caption.", where=table.name, remedy="Name one.")


def _record(name: str, record: Record, columns: ImageColumns, folder: PurePosixPath) -> Listed:
    def cell(column: str | None) -> str | None:
        return (as_text(record.values.get(column)) or None) if column else None

    needed = [column for column in (columns.image, columns.label, columns.caption) if column]
    source = cell(columns.image) or ""
    row = ImageRow(
        record.number,
        label=cell(columns.label),
        caption=cell(columns.caption),
        group=cell(columns.group),
        licence=cell(columns.licence),
        file=name,
        path="data URI" if source.startswith("data:") else source[:200],
        line=record.line,
        problem=next((found for column in needed if (found := text_problem(record, column))), None),
    )
    if row.problem is not None:
        return Listed(row, source)
    inner = within(record, columns.image, source, folder)
    return Listed(row, inner) if isinstance(inner, str) else Listed(replace(row, problem=inner), "")
