"""Profiles of invented pictures and recordings, and the planner called on them."""

from collections.abc import Sequence
from typing import Any

from agents.planner import Defaults, Offer, plan
from moatelier.contracts import (
    AnyProfile,
    AudioColumns,
    AudioProfile,
    ImageColumns,
    ImageProfile,
    Question,
    TaskPlan,
)

DEFAULTS = Defaults(
    base="smollm2-135m-instruct",
    methods=("lora", "alora"),
    others={
        "vision": Offer(
            base="efficientnet-lite0",
            bases=("efficientnet-lite0", "vit-b-32"),
            methods=("top_blocks", "image_lora", "linear_probe", "contrastive", "llava"),
        ),
        "audio": Offer(base="whisper-tiny.en", methods=("audio_lora",)),
        "imagetext": Offer(base="smollm2-135m-instruct", methods=("llava",)),
    },
)


def pictures(name: str = "cifar.zip", **fields: Any) -> ImageProfile:
    values: dict[str, Any] = {
        "file": "file-train",
        "name": name,
        "format": "zip",
        "images": 1200,
        "parts": (),
        "labels": {"cat": 600, "dog": 600},
        "tables": (),
        "columns": None,
        "looked_at": 200,
        "sizes": {"min": 32, "p50": 32, "p95": 32, "max": 32},
    }
    return ImageProfile(**values | fields)


def recordings(name: str = "digits.zip", **fields: Any) -> AudioProfile:
    values: dict[str, Any] = {
        "file": "file-train",
        "name": name,
        "format": "zip",
        "recordings": 1000,
        "parts": (),
        "labels": {},
        "transcripts": 1000,
        "speakers": {},
        "tables": (),
        "columns": None,
        "looked_at": 200,
        "seconds": {"min": 0.2, "p50": 0.5, "p95": 0.8, "max": 1.2},
        "rates": {8000: 1000},
    }
    return AudioProfile(**values | fields)


FOLDERS = pictures()
SHOTS = pictures(
    "shots.zip",
    tables=("index.csv",),
    columns=ImageColumns(image="file", label="species", group="camera"),
    headers=("file", "species", "camera", "weather"),
)
UNNAMED = pictures("odd.zip", tables=("t.csv",), columns=None, headers=("a", "b"), labels={})
TOLD = pictures(
    "album.zip",
    tables=("index.csv",),
    columns=ImageColumns(image="file", caption="caption", group="author"),
    headers=("file", "caption", "author"),
    labels={},
)
SHAPES = pictures(
    "shapes.zip",
    tables=("index.csv",),
    columns=ImageColumns(image="image", label="label", caption="caption"),
    headers=("image", "label", "caption"),
)
DIGITS = recordings(
    tables=("index.csv",),
    columns=AudioColumns(audio="file", text="text", speaker="speaker"),
    headers=("file", "text", "speaker"),
)
MOODS = recordings(
    "moods.zip", tables=("i.csv",), columns=AudioColumns(audio="clip", label="emotion"), headers=("clip", "emotion")
)
BOTH = recordings(
    "calls.zip",
    tables=("index.csv",),
    columns=AudioColumns(audio="file", text="transcript", label="intent", speaker="speaker"),
    headers=("file", "transcript", "intent", "speaker"),
)
NAMED = recordings("commands.zip", labels={"yes": 500, "no": 500}, speakers={"ann": 500, "bob": 500})


def outcome(
    *messages: str,
    data: AnyProfile = FOLDERS,
    test: AnyProfile | None = None,
    others: Sequence[AnyProfile] = (),
    test_file: str = "file-test",
) -> TaskPlan | tuple[Question, ...]:
    return plan(
        messages,
        data,
        test,
        others=others,
        train_file="file-train",
        test_file=test_file if test else None,
        defaults=DEFAULTS,
    )


def planned(*messages: str, **keywords: Any) -> TaskPlan:
    result = outcome(*messages, **keywords)
    assert isinstance(result, TaskPlan), result
    return result


def questions(*messages: str, **keywords: Any) -> dict[str, Question]:
    result = outcome(*messages, **keywords)
    assert isinstance(result, tuple) and result, result
    return {question.field: question for question in result}
