"""Which adapters `auto` may choose: read from the signed records, kept until a record is added.

An adapter is on the roster when its newest record says that it joined, no later one took its place, it is tuned on the
base that is served, and the embedding model of the settings made its profile: vectors of two models are never
compared. The calibration is the newest card's that was fitted on that model's vectors. Each modality has a roster of
its own, since it has an embedding model of its own.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import ValidationError

from moatelier.contracts import Calibration, RouterCard, RouterEntry, RouterProfile
from moatelier.errors import IntegrityError, NotFound
from moatelier.settings import settings
from modalities import catalogue
from serving.router import Router
from store import adapters, artifacts, records

log = logging.getLogger("moatelier.serving")


@dataclass(frozen=True)
class Roster:
    """What `auto` chooses from.

    Attributes:
        router: Over the adapters on the roster; without any it gives everything to the base.
        embedding: Catalogue id of the model whose vectors it takes; None without adapters.
        foreign: Adapters that have joined by the vectors of another model -> that model's id.
    """

    router: Router
    embedding: str | None
    foreign: dict[str, str] = field(default_factory=dict)


def record_key(adapter: str, run: str) -> str:
    """The name of the records that a run signs as an adapter enters: (kind, key) is signed once."""
    return f"{adapter}@{run}"


def entries(project: str) -> list[RouterEntry]:
    """Every adapter's entry, oldest first. Raises IntegrityError when a record was changed."""
    return [RouterEntry.model_validate(record.body) for record in records.list_kind(project, "router_profile")]


def on_roster(found: Iterable[RouterEntry]) -> list[RouterEntry]:
    """The entries that joined and whose place nobody took since: of the entries oldest first, an adapter's newest."""
    standing: dict[str, RouterEntry] = {}
    for entry in found:
        standing.pop(entry.adapter, None)
        if entry.joined:
            standing.pop(entry.replaces or "", None)
            standing[entry.adapter] = entry
    return list(standing.values())


def comparable(made: RouterProfile) -> bool:
    """Whether the modality's embedding model made a profile: the same id, and where it is pulled the same files.

    Raises:
        NotFound, InvalidRequest: The setting names no embedding model.
        IntegrityError: The model's files are not those that were pulled.
    """
    named = catalogue.embedder(made.modality)
    return made.embedding == named and _model(made.modality) in (None, made.embedding_digest)


def _model(modality: str) -> str | None:
    """The digest of the files of a modality's embedding model; None where it is not pulled."""
    named = catalogue.embedder(modality)
    return catalogue.base_digest(named) if catalogue.is_pulled(named) else None


def load(project: str, modality: str = "text") -> Roster:
    """The roster of a modality as the records say it now.

    Raises:
        IntegrityError: A record was changed, or a file of the embedding model.
        NotFound, InvalidRequest: The setting names no embedding model.
    """
    served = {record.digest for record in adapters.list_adapters(project) if record.base in settings().bases}
    standing = [entry for entry in on_roster(entries(project)) if entry.adapter in served]
    joined = [made for entry in standing if (made := profile_of(entry)) and made.modality == modality]
    fit = [made for made in joined if comparable(made)]
    # Without its files here nothing but the newest profile says which bytes go by the model's id.
    fit = [made for made in fit if made.embedding_digest == fit[-1].embedding_digest]
    known = {made.adapter for made in fit}
    foreign = {made.adapter: made.embedding for made in joined if made.adapter not in known}
    if foreign:
        log.warning("auto leaves out %d adapters whose profiles another embedding model made", len(foreign))
    if not fit:
        return Roster(Router([]), None, foreign)
    calibration = _calibration(project, known, fit[-1].embedding_digest)
    return Roster(Router(fit, calibration), catalogue.embedder(modality), foreign)


def profile_of(entry: RouterEntry) -> RouterProfile | None:
    """An entry's profile; None, with a line in the log, when it cannot be read."""
    try:
        return RouterProfile.model_validate(artifacts.get_json(entry.profile))
    except (NotFound, IntegrityError, ValidationError):
        log.exception("the profile of %s cannot be read; auto goes on without it", entry.adapter)
        return None


def _calibration(project: str, known: set[str], model: str) -> Calibration | None:
    """The newest card's by the registration of who is on the roster; failing that, the newest's over any of them."""
    cards = [RouterCard.model_validate(record.body) for record in records.list_kind(project, "router_card")]
    fit = [card for card in reversed(cards) if card.embedding_digest in (None, model)]
    own = [card for card in fit if card.adapter in known]
    over = [card for card in fit if known & set(card.adapters)]
    return (own or over)[0].calibration if own or over else None


class Rosters:
    """Rosters by project and modality, read again only when a record was added or the embedding model came."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[tuple[int, int, int, str | None], Roster]] = {}
        self._lock = threading.Lock()

    def get(self, wanted: tuple[str, str]) -> Roster:
        """The roster of (project, modality), blocking. Raises like `load`."""
        project, modality = wanted
        stamp = (
            records.count(project, "router_profile"),
            records.count(project, "router_card"),
            adapters.count(project),
            _model(modality),
        )
        with self._lock:
            kept = self._kept.get(wanted)
            if kept is None or kept[0] != stamp:
                kept = self._kept[wanted] = (stamp, load(project, modality))
            return kept[1]
