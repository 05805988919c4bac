"""What a folder or zip of media holds, before any of it is decoded: the media, the tables about them, its parts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from moatelier.contracts import RowProblem
from moatelier.errors import DataError
from modalities.files import TABLES, Files, Nothing, is_zip, open_files
from modalities.media import Media, is_uri, uri_bytes
from modalities.text.reading import Record, Table, parse_table, read_table
from modalities.text.rows import problem

PARTS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "select")
"""Names of folders that divide media and are no classes."""


@contextmanager
def open_data(
    path: Path, name: str, media: Media, beside: tuple[Path, str] | None
) -> Iterator[tuple[Files, Table | None]]:
    """Open what was uploaded: files, and the table if it came apart from them.

    Args:
        path: A folder, a zip, or a table.
        name: What its owner calls it.
        media: What is looked for.
        beside: The folder or zip that a table's paths lead into, and its name; without it they are refused.

    Raises:
        DataError: It is none of these, or cannot be read.
    """
    if path.is_dir() or is_zip(path):
        with open_files(path, name, media) as files:
            yield files, None
    elif not name.lower().endswith(TABLES):
        raise DataError(
            f"This is neither a folder or zip of {media.name} files nor a table of them.",
            where=name,
            remedy="Pack the files, and a table of them if there is one, into one zip.",
        )
    elif beside is not None:
        with open_files(*beside, media) as files:
            yield files, read_table(path, name)
    else:
        yield Nothing(name), read_table(path, name)


def media_in(files: Files, media: Media) -> list[str]:
    """The paths of the media."""
    return [path for path in files.paths if path.lower().endswith(media.suffixes)]


def tables_in(files: Files) -> list[str]:
    """The paths of the tables that lie above the media."""
    return [path for path in files.paths if path.lower().endswith(TABLES) and path.count("/") <= 1]


def first_table(files: Files, table: Table | None) -> Table | None:
    """The table that came apart, or else the first that lies among the files."""
    if table is None and (found := tables_in(files)):
        return parse_table(files.read(found[0]), f"{files.name}: {found[0]}")
    return table


def every_table(files: Files, table: Table | None) -> list[str | None]:
    """The parts to list one by one so that nothing is left out: each of several tables, else all at once."""
    found = tables_in(files) if table is None else []
    return [Path(path).stem for path in found] if len(found) > 1 else [None]


def parts_in(files: Files, media: Media) -> tuple[str, ...]:
    """The folders such as `train` and `test` that divide the media already."""
    paths = media_in(files, media)
    tops = {path.partition("/")[0] for path in paths}
    deep = all(path.count("/") >= 2 for path in paths)
    return tuple(sorted(tops)) if deep and tops and all(top.lower() in PARTS for top in tops) else ()


def require_part(files: Files, media: Media, part: str | None) -> None:
    """Refuse a part that is none.

    Raises:
        DataError: No folder of that name divides the media.
    """
    divided = parts_in(files, media)
    if part is not None and part not in divided:
        raise DataError(
            f"There is no folder {part!r} that divides the data.",
            where=files.name,
            remedy=f"There are {', '.join(divided)}." if divided else "Name none.",
        )


def table_in(files: Files, media: Media, part: str | None, needed: bool) -> str | None:
    """The path of the one table, or of the one that is named as the part are called.

    Args:
        files: Where it lies.
        media: What it is about.
        part: Only the table of this name.
        needed: Whether columns of it were named.

    Raises:
        DataError: There are several, or none though one is needed.
    """
    found = tables_in(files)
    if part is not None:
        named = [path for path in found if PurePosixPath(path).stem == part]
        found = named or ([] if parts_in(files, media) else found)
    if len(found) > 1:
        raise DataError(
            f"There are several tables: {', '.join(found)}.", where=files.name, remedy="Keep one, or name its part."
        )
    if not found and needed:
        raise DataError(
            "There is no table with the named columns.", where=files.name, remedy="Add one beside the files."
        )
    return found[0] if found else None


def guess_roles(table: Table, names: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """For each role the column that seems to play it, by its name; `names` has the usual ones, best first."""
    known = {column.casefold().strip().replace(" ", "_"): column for column in table.columns}
    return {role: next((known[name] for name in usual if name in known), None) for role, usual in names.items()}


def require_columns(table: Table, columns: Mapping[str, str | None]) -> None:
    """Refuse columns that are not there.

    Raises:
        DataError: Names the role and the columns there are.
    """
    for role, column in columns.items():
        if column is not None and column not in table.columns:
            raise DataError(
                f"There is no column {column!r} to be the {role}.",
                where=table.name,
                remedy=f"The columns are {', '.join(table.columns)}.",
            )


def within(record: Record, field: str, source: str, folder: PurePosixPath) -> str | RowProblem:
    """Where a table's path leads to within its files; a data URI is left as it is.

    Args:
        record: The row, for messages.
        field: The column of the path.
        source: The path.
        folder: The one in which the table lies.
    """
    if is_uri(source):
        return source
    inner = folder / source
    if inner.is_absolute() or ".." in inner.parts or "\\" in source:
        return problem(record, field, "The path leads out of the folder.", "Name files within it only.")
    return inner.as_posix()


def read_media(files: Files, source: str, place: str, media: Media) -> bytes:
    """The bytes of a medium that a row names by its path or brings as a data URI.

    Args:
        files: Where the paths lead.
        source: Path or data URI.
        place: Of the row, for messages.
        media: What it must be.

    Raises:
        InvalidRequest: It is a URL, not there, too large, or no such data URI.
    """
    return uri_bytes(source, place, media) if is_uri(source) else files.read(source)
