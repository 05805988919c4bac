"""`auto` on pictures and recordings: the medium decides about the modality, the content about the adapter."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moatelier.errors import NotFound
from serving.auto import Auto, together
from serving.brief import Brief
from serving.router import BASE, Ranked
from serving.targets import resolve
from store import adapters
from tests.api.fake_engine import vector
from tests.routed import PARCEL, REFUND, join
from tests.sensed import registered

EYES, EARS = "efficientnet-lite0", "whisper-tiny.en"
WORDS = {"type": "text", "text": "What is it?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


class Upstream:
    """Embeds pictures as one thing and recordings as another."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Any], str]] = []

    async def embeddings(self, inputs: Sequence[Any], model: str) -> list[list[float]]:
        self.asked.append((list(inputs), model))
        return [list(vector({EYES: PARCEL[0], EARS: REFUND[0]}[model])) for _ in inputs]


def seen(suffix: str, texts: Sequence[str], base: str = EYES) -> adapters.AdapterRecord:
    record = registered("vision" if base == EYES else "audio", base, "classification", suffix)
    join(record, texts, embedding=base)
    return record


def ranked(upstream: Upstream, *content: Any) -> Ranked:
    async def scene() -> Ranked:
        auto = Auto(upstream, Brief(resolve), seed=0)  # type: ignore[arg-type]
        return await auto.ranked("default", [{"role": "user", "content": [WORDS, *content]}])

    return asyncio.run(scene())


def test_a_picture_goes_to_the_adapter_whose_pictures_look_like_it(home: Path) -> None:
    parcels, refunds = seen("parcels", PARCEL), seen("refunds", REFUND)
    found = ranked(upstream := Upstream(), IMAGE)
    assert found.choice == parcels.digest and set(found.names) == {parcels.digest, refunds.digest, BASE}
    assert upstream.asked == [([IMAGE], EYES)]


def test_a_picture_and_a_recording_bring_in_adapters_of_both(home: Path) -> None:
    eyes, ears = seen("parcels", PARCEL), seen("refunds", REFUND, EARS)
    found = ranked(Upstream(), IMAGE, SOUND)
    assert {one.name for one in found.top(2)} == {eyes.digest, ears.digest}
    assert sum(found.chances) == pytest.approx(1.0)


def test_a_medium_that_nobody_knows_is_left_to_the_others(home: Path) -> None:
    eyes = seen("parcels", PARCEL)
    assert ranked(Upstream(), SOUND, IMAGE).choice == eyes.digest
    with pytest.raises(NotFound, match="no adapter to choose from yet for audio"):
        ranked(Upstream(), SOUND)


def test_parts_count_the_same() -> None:
    found = together([Ranked(("a", BASE), (0.8, 0.2), 0.9), Ranked(("b", BASE), (0.6, 0.4), 0.7)])
    assert found.probabilities == pytest.approx({"a": 0.4, "b": 0.3, BASE: 0.3}) and found.cosine == 0.9


def test_auto_is_offered_where_any_modality_has_adapters(home: Path) -> None:
    auto = Auto(Upstream(), Brief(resolve), seed=0)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        auto.check("default")
    seen("parcels", PARCEL)
    auto.check("default")
    assert auto.offered("default")
