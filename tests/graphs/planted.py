"""An engine whose every answer is planted, with adapters and a dataset for recipes to be measured on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from evals import vault
from moatelier.contracts import Columns, CurationReport, DatasetCard, Recipe, SplitInfo, SplitName, TrainSpec
from moatelier.contracts.recipes import read_recipe
from modalities import bundle
from modalities.text import data
from serving import embeddings as embedded
from serving import mixtures
from store import adapters, artifacts, datasets, recipes
from tests.api.fake_engine import vector

COUNTS = dict.fromkeys(
    ["exact_duplicates", "near_duplicate_clusters", "near_duplicates_of_test", "conflicting_labels"], 0
)
SYSTEM = {"role": "system", "content": "Name the category of the message."}
LABELS = ("parcel", "refund", "broken")

Says = Callable[[str, str], str]
"""(the adapter's suffix or `base`, the whole last message) -> the answer."""


@dataclass
class Engine:
    """Answers as planted; remembers what it was asked. `down` refuses everything, `refuses` one adapter's questions.

    After `lives_until` questions the next one fails, as if the engine had been killed and started again meanwhile.
    """

    says: Says
    asked: list[dict[str, Any]] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    down: bool = False
    refuses: str = "nobody"
    down_after: int | None = None
    lives_until: int | None = None
    created: int = 1

    def app(self) -> FastAPI:
        """Speaks as much of the dialect as a recipe needs."""
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> JSONResponse:
            body = await request.json()
            if self.lives_until is not None and len(self.asked) >= self.lives_until:
                self.lives_until, self.created = None, self.created + 1
                return JSONResponse({"error": {"message": "killed", "code": None}}, status_code=500)
            late = self.down_after is not None and len(self.asked) >= self.down_after
            if self.down or late or body["model"].startswith(self.refuses):
                return JSONResponse({"error": {"message": "down", "code": None}}, status_code=500)
            self.asked.append(body)
            name = str(body["model"]).partition("@")[0]
            text = self.says("base" if name == "tiny" else name, str(body["messages"][-1]["content"]))
            message = {"role": "assistant", "content": text}
            logprobs = {"content": [{"token": text, "logprob": -0.5}]} if body.get("logprobs") else None
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
            return JSONResponse({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})

        @app.post("/v1/load_lora_adapter")
        async def load(request: Request) -> JSONResponse:
            self.loaded.add((await request.json())["lora_name"])
            return JSONResponse({})

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            base = {"id": "tiny", "created": self.created}
            return {"object": "list", "data": [base, *({"id": name} for name in self.loaded)]}

        @app.post("/v1/embeddings")
        async def embeddings(request: Request) -> JSONResponse:
            body = await request.json()
            vectors = np.stack([vector(text) for text in body["input"]])
            return JSONResponse(embedded.body(vectors, body["model"], "base64", 7))

        return app


def made_rows(count: int, start: int = 0) -> list[data.Row]:
    """Rows `question N` whose answer is a label."""
    rows = []
    for number in range(start, start + count):
        label = LABELS[number % 3]
        turns = ({"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": label})
        rows.append(data.Row(number + 1, (SYSTEM, *turns), label))
    return rows


def dataset(name: str = "desk", test: int = 60, start: int = 0) -> str:
    """A curated dataset: 30 train, 40 dev, 30 select rows and `test` locked ones."""
    counts: dict[SplitName, int] = {"train": 30, "dev": 40, "select": 30, "test": test}
    parts: dict[SplitName, list[data.Row]] = {}
    for split, count in counts.items():
        parts[split] = made_rows(count, start)
        start += 1000
    locked = data.locked_digest(parts["test"])
    vault.lock(data.write_rows(parts["test"]), locked)
    infos = {
        split: SplitInfo(
            rows=len(rows), artifact=None if split == "test" else artifacts.put_bytes(data.write_rows(rows))
        )
        for split, rows in parts.items()
    }
    card = DatasetCard(
        name=name,
        source="0" * 64,
        test_source=None,
        licence="Apache-2.0",
        modality="text",
        kind="classification",
        columns=Columns(input="message", target="intent"),
        labels=LABELS,
        splits=infos,
        locked=locked,
        report=CurationReport(rows_read=1, rows_kept=1, **COUNTS),
    )
    return datasets.add_card("default", card, f"task-{name}")


def adapter(
    suffix: str, made_of: str, seed: int = 0, modality: str = "text", base: str = "tiny"
) -> adapters.AdapterRecord:
    """A registered adapter of the tiny base under its suffix as an alias."""
    spec = TrainSpec(method="lora", base=base, dataset=made_of, suffix=suffix, seed=seed)
    digest = bundle.seal(
        {"adapter_model.safetensors": f"weights {suffix} {seed}".encode(), "adapter_config.json": b"{}"},
        base=base,
        base_digest="b" * 64,
        modality=modality,
        kind="classification",
        suffix=suffix,
        system=SYSTEM["content"],
        template_digest="t" * 64,
        stop_ids=(2,),
        labels=LABELS,
        first_layer=4,
        dataset=made_of,
        licence="Apache-2.0",
        spec=spec,
        versions={"moatelier": "0.1.0"},
    )
    record = adapters.register("default", bundle.read_manifest(adapters.bundle_path(digest)), "task-1")
    adapters.set_alias("default", suffix, record.digest, fence=1, actor="test")
    return adapters.get("default", record.digest)


def add(text: str) -> Recipe:
    """A recipe, sealed and kept as a draft."""
    sealed = mixtures.seal("default", read_recipe(text))
    recipes.put("default", text, sealed, actor="test")
    return sealed


def number(said: str) -> int:
    """The number of a planted question, wherever references follow it."""
    return int(said.split()[1])


def truth(said: str) -> str:
    """The right answer to a planted question."""
    return LABELS[number(said) % 3]


def wrong(said: str) -> str:
    """A wrong one."""
    return LABELS[(number(said) + 1) % 3]
