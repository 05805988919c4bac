"""What the command line's groups share: options of the same name and meaning, and the connection to the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Approve the plan without asking.")]
NOT_REACHED = 3
"""Exit status of what was measured honestly and fell short."""


@contextmanager
def service() -> Iterator[Any]:
    """A client of the running service, or of one that is started for the call."""
    from moatelier.client import connect

    with connect() as client:
        yield client
