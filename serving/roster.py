"""Which adapters `auto` may choose: read from the signed records, kept until a record is added.

An adapter is on the roster when its record says that it joined, no later one took its place, and it is tuned on the
base that is served. The calibration is the newest card's whose adapter is on the roster.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from moatelier.contracts import Calibration, RouterCard, RouterEntry, RouterProfile
from moatelier.errors import IntegrityError, NotFound
from moatelier.settings import settings
from serving.router import Router
from store import adapters, artifacts, records

log = logging.getLogger("moatelier.serving")


@dataclass(frozen=True)
class Roster:
    """What `auto` chooses from.

    Attributes:
        router: Over the adapters on the roster; without any it gives everything to the base.
        embedding: Catalogue id of the model whose vectors it takes; None without adapters.
    """

    router: Router
    embedding: str | None


def entries(project: str) -> list[RouterEntry]:
    """Every adapter's entry, oldest first. Raises IntegrityError when a record was changed."""
    return [RouterEntry.model_validate(record.body) for record in records.list_kind(project, "router_profile")]


def on_roster(found: Iterable[RouterEntry]) -> list[RouterEntry]:
    """The entries that joined and whose place nobody took."""
    joined = [entry for entry in found if entry.joined]
    replaced = {entry.replaces for entry in joined}
    return [entry for entry in joined if entry.adapter not in replaced]


def load(project: str) -> Roster:
    """The roster as the records say it now. Raises IntegrityError when a record was changed."""
    served = {record.digest for record in adapters.list_adapters(project) if record.base == settings().base}
    profiles = [made for entry in on_roster(entries(project)) if entry.adapter in served and (made := _profile(entry))]
    if not profiles:
        return Roster(Router([]), None)
    newest = profiles[-1]
    fit = [made for made in profiles if made.embedding_digest == newest.embedding_digest]
    if len(fit) < len(profiles):
        log.warning("%d profiles are of another embedding model and are left out", len(profiles) - len(fit))
    return Roster(Router(fit, _calibration(project, {made.adapter for made in fit})), newest.embedding)


def _profile(entry: RouterEntry) -> RouterProfile | None:
    try:
        return RouterProfile.model_validate(artifacts.get_json(entry.profile))
    except (NotFound, IntegrityError, ValidationError):
        log.exception("the profile of %s cannot be read; auto goes on without it", entry.adapter)
        return None


def _calibration(project: str, known: set[str]) -> Calibration | None:
    for record in reversed(records.list_kind(project, "router_card")):
        if record.subject in known:
            return RouterCard.model_validate(record.body).calibration
    return None


class Rosters:
    """Rosters by project, read again only when a record was added."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[tuple[int, int, int], Roster]] = {}
        self._lock = threading.Lock()

    def get(self, project: str) -> Roster:
        """The project's roster (blocking). Raises like `load`."""
        stamp = (
            records.count(project, "router_profile"),
            records.count(project, "router_card"),
            adapters.count(project),
        )
        with self._lock:
            kept = self._kept.get(project)
            if kept is None or kept[0] != stamp:
                kept = self._kept[project] = (stamp, load(project))
            return kept[1]
