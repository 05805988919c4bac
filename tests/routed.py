"""Adapters that have joined `auto`: signed entries and a card, as a registration leaves them, on the fake's vectors."""

from collections.abc import Sequence

import numpy as np

from evals import router_card
from moatelier.contracts import HeldOut, RouterEntry, RouterProfile
from serving.general import SENTENCES
from serving.prototypes import Vectors, pack, profile
from store import adapters, artifacts, records
from tests.api.fake_engine import vector

PARCEL = ["where is my parcel", "my parcel is late", "track the parcel please", "parcel has not come", "parcel where"]
REFUND = ["i want my money back", "refund my money", "please refund", "money was not returned", "my refund money"]


def embedded(texts: Sequence[str]) -> Vectors:
    return np.stack([vector(text) for text in texts])


def join(
    record: adapters.AdapterRecord,
    texts: Sequence[str],
    *,
    joined: bool = True,
    replaces: str | None = None,
    run: str = "run-1",
    embedding: str = "all-minilm-l6-v2",
    embedding_digest: str = "e" * 64,
) -> RouterProfile:
    """Sign an adapter's entry, with its dev rows like its train rows; an entry for each run."""
    labels: list[str | None] = [None] * len(texts)
    model = {"embedding": embedding, "embedding_digest": embedding_digest}
    made = profile(record.manifest, embedded(texts), labels, **model)
    held = HeldOut(adapter=record.digest, vectors=pack(embedded(texts)), right=(True,) * len(texts))
    entry = RouterEntry(
        adapter=record.digest,
        profile=artifacts.put_json(made),
        held_out=artifacts.put_json(held),
        joined=joined,
        replaces=replaces,
        reason="for a test",
    )
    records.sign(record.project, "router_profile", record.digest, f"{record.digest}@{run}", entry)
    return made


def sign_card(project: str, *made: tuple[RouterProfile, Sequence[str]], run: str = "run-1") -> None:
    """Sign the router card over some profiles, in the name of the last."""
    profiles = [one for one, _ in made]
    held = {
        one.adapter: HeldOut(adapter=one.adapter, vectors=pack(embedded(texts)), right=(True,) * len(texts))
        for one, texts in made
    }
    card = router_card.card(router_card.trial(profiles, held, embedded(SENTENCES)), profiles, profiles[-1].adapter)
    records.sign(project, "router_card", card.adapter, f"{card.adapter}@{run}", card)
