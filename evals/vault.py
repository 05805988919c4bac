"""The vault: locked test rows in `<home>/vault`, closed to other accounts (folder 0700, files 0600).

Anybody may lock rows; only the gates open them, `evals.gate` for an adapter and `evals.held_out` for a recipe, after
the look has been written down. The hash of the rows' content names them and counts their looks, and it is checked at
both doors.
"""

from pathlib import Path

from moatelier.errors import IntegrityError, NotFound
from moatelier.ids import digest_bytes
from moatelier.job import write_atomically
from moatelier.settings import settings
from modalities import registry


def lock(rows: bytes, locked: str) -> None:
    """Put rows into the vault. Locking the same content again changes nothing, or mends a damaged copy.

    Args:
        rows: JSON lines, one row a line, as the `write_rows` of their modality's data module writes them.
        locked: The rows' content hash, as the dataset card states it.

    Raises:
        IntegrityError: The hash is not that of the rows.
        ResourceExhausted: The disk is full.
    """
    if not _is_content(rows, locked):
        raise IntegrityError("The hash is not that of the rows to lock.", where=locked)
    path = _place(locked)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    if not path.exists() or not _is_content(path.read_bytes(), locked):  # a damaged copy would cost the gate its look
        write_atomically(path, rows)
    path.chmod(0o600)


def need(locked: str) -> None:
    """Make sure that the rows are in the vault, without reading them.

    Raises:
        NotFound: They are not.
    """
    if not _place(locked).is_file():
        raise NotFound(
            "The locked rows are not in the vault.", where=locked, remedy="Curate the data again: start a new task."
        )


def open_locked(locked: str) -> bytes:
    """The locked rows. For the gates alone, which take a look first.

    Raises:
        NotFound: They are not in the vault.
        IntegrityError: They are not what was locked.
    """
    need(locked)
    rows = _place(locked).read_bytes()
    if not _is_content(rows, locked):
        raise IntegrityError(
            "The locked rows were changed in the vault.",
            where=str(_place(locked)),
            remedy="Restore the file from a backup, or start a new task with new test rows.",
        )
    return rows


def keep(evidence: bytes, digest: str) -> None:
    """Keep what a decision was made of beside the rows it was made on: it holds their answers.

    Args:
        evidence: A `GateEvidence` as canonical JSON.
        digest: SHA-256 of these bytes.

    Raises:
        IntegrityError: The digest is not that of the bytes.
        ResourceExhausted: The disk is full.
    """
    if digest_bytes(evidence) != digest:
        raise IntegrityError("The digest is not that of the evidence.", where=digest)
    path = _evidence(digest)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.parent.chmod(0o700)
    path.parent.chmod(0o700)
    write_atomically(path, evidence)
    path.chmod(0o600)


def kept(digest: str) -> bytes:
    """What a decision was made of.

    Raises:
        NotFound: It is not in the vault.
        IntegrityError: It is not what was kept.
    """
    path = _evidence(digest)
    if not path.is_file():
        raise NotFound("The evidence of this decision is not in the vault.", where=digest)
    held = path.read_bytes()
    if digest_bytes(held) != digest:
        raise IntegrityError(
            "The evidence of a decision was changed in the vault.",
            where=str(path),
            remedy="Restore the file from a backup.",
        )
    return held


def _evidence(digest: str) -> Path:
    return _place(digest).parent / "evidence" / f"{digest}.json"


def _is_content(rows: bytes, locked: str) -> bool:
    try:
        data = registry.data_of(rows)
        return bool(data.locked_digest(data.parse_rows(rows)) == locked)
    except (ValueError, KeyError, TypeError):  # damaged lines are no rows
        return False


def _place(locked: str) -> Path:
    if len(locked) != 64 or set(locked) - set("0123456789abcdef"):  # it becomes a file name
        raise NotFound("This is not the content hash of locked rows.", where=locked)
    return settings().home / "vault" / f"{locked}.jsonl"
