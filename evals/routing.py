"""Enter adapters into the router: make their profiles, fit the calibration over all, write the router card.

    python -m evals.routing --spec spec.json

`spec.json` is a `RoutingSpec`; the result is a `RoutingResult`. Train rows make the profile, dev rows the calibration
and the card; select rows are not read, and the locked ones are in the vault. A killed job begins again: all of it takes
seconds.
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from evals import router_card
from evals.scorers import plain
from evals.subjects import Row, embedder, nobodys, subjects
from moatelier.contracts import (
    BuiltProfile,
    DatasetCard,
    HeldOut,
    ProfileSource,
    RouterProfile,
    RoutingResult,
    RoutingSpec,
    SplitName,
)
from moatelier.errors import IntegrityError, NotFound
from moatelier.faults import fault_point
from moatelier.job import Job, main
from modalities import catalogue
from modalities.bundle import bundle_folder, read_manifest
from serving.prototypes import Vectors, pack, profile
from store import artifacts, datasets

TRAIN_ROWS = 2000
"""Train rows that a profile is made of at most, evenly taken; more move its prototypes no further."""
DEV_ROWS = 400
log = logging.getLogger("moatelier.job")

Embed = Callable[[Sequence[Any]], Vectors]


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Do as a `RoutingSpec` says and return the `RoutingResult`.

    Raises:
        NotFound: No such bundle, dataset or artifact.
        IntegrityError: One of them was changed.
        ModelUnavailable: The embedding model is not pulled.
        DataError: No adapter has rows to calibrate on.
        Cancelled: The job was asked to stop.
    """
    return enter(RoutingSpec.model_validate(spec), job).model_dump(mode="json")


def enter(spec: RoutingSpec, job: Job) -> RoutingResult:
    """Make profiles and card; raises as `work` does."""
    digest = catalogue.base_digest(spec.embedding)
    embed = embedder(spec.modality, spec.embedding, job.check)
    profiles, held_out = _known(spec)
    built: dict[str, tuple[str, str]] = {}
    for done, source in enumerate(spec.build, start=1):
        try:
            made, rows = _build(source, embed, spec, digest)
        except (NotFound, IntegrityError):
            if source.adapter == spec.candidate:
                raise
            log.exception("%s is left out of the router: what its profile is made of is gone", source.adapter)
            continue
        profiles[source.adapter], held_out[source.adapter] = made, rows
        built[source.adapter] = artifacts.put_json(made), artifacts.put_json(rows)
        fault_point("routing.running")
        job.emit("progress", done, phase="profile", done=done, total=len(spec.build), adapter=source.adapter)
    everyone = [made for made in profiles.values() if made.embedding_digest == digest]
    tried = router_card.trial(everyone, held_out, embed(nobodys(spec.modality)))
    card = router_card.card(tried, everyone, spec.candidate, seed=spec.seed)
    artifacts.put_json(card)
    fault_point("routing.written")
    first = sorted(built, key=lambda adapter: adapter != spec.candidate)
    return RoutingResult(
        built=tuple(_told(tried, profiles[name], held_out[name], *built[name]) for name in first), card=card
    )


def _told(tried: router_card.Trial, made: RouterProfile, rows: HeldOut, profile: str, held_out: str) -> BuiltProfile:
    twin, share = router_card.told_apart(tried, made.adapter)
    return BuiltProfile(
        adapter=made.adapter,
        profile=profile,
        held_out=held_out,
        rows=made.rows,
        held_out_rows=len(rows.right),
        twin=twin,
        told_apart=share,
    )


def _known(spec: RoutingSpec) -> tuple[dict[str, RouterProfile], dict[str, HeldOut]]:
    building = {source.adapter for source in spec.build}
    profiles, held_out = {}, {}
    for known in spec.known:
        if known.adapter not in building:
            profiles[known.adapter] = RouterProfile.model_validate(artifacts.get_json(known.profile))
            held_out[known.adapter] = HeldOut.model_validate(artifacts.get_json(known.held_out))
    return profiles, held_out


def _build(source: ProfileSource, embed: Embed, spec: RoutingSpec, digest: str) -> tuple[RouterProfile, HeldOut]:
    manifest = read_manifest(bundle_folder(source.adapter))
    card = datasets.get_card(source.dataset)
    train, dev = _rows(card, "train", TRAIN_ROWS), _rows(card, "dev", DEV_ROWS)
    made = profile(
        manifest,
        embed(subjects(card.modality, train)),
        [row.get("label") for row in train],
        embedding=spec.embedding,
        embedding_digest=digest,
        seed=spec.seed,
    )
    # A chat's answer is hardly ever the expected one to the letter: there a row counts as right when it comes home.
    right = _right(source.answers) if card.kind == "classification" else {}
    return made, HeldOut(
        adapter=source.adapter,
        vectors=pack(embed(subjects(card.modality, dev))) if dev else "",
        right=tuple(right.get(row["id"], True) for row in dev),
    )


def _rows(card: DatasetCard, split: SplitName, most: int) -> list[Row]:
    """The rows of a split that have something to route by, at most `most`, evenly taken in the order of their ids."""
    info = card.splits.get(split)
    lines = artifacts.get_bytes(info.artifact).split(b"\n") if info and info.artifact else []
    rows = sorted((json.loads(line) for line in lines if line), key=lambda row: (row["id"], row["row"]))
    rows = [row for row, subject in zip(rows, subjects(card.modality, rows), strict=True) if subject]
    step = max(1.0, len(rows) / most)
    return [rows[int(place * step)] for place in range(min(most, len(rows)))]


def _right(answers: str | None) -> dict[str, bool]:
    """Row id -> whether the adapter answered it rightly, from the answers that its evaluation on dev kept."""
    if answers is None:
        return {}
    lines = [json.loads(line) for line in artifacts.get_bytes(answers).split(b"\n") if line]
    return {line["id"]: plain(line["answer"]) == plain(line["truth"]) for line in lines}


if __name__ == "__main__":
    main("evals.routing", work)
