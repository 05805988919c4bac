"""The engine's routes for pictures and recordings: chat with them, transcriptions, classification, embeddings.

The bodies are those of the OpenAI dialect; `/v1/classify` is as vLLM has it, with the labels' names beside their
probabilities.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, UploadFile
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from moatelier.errors import InvalidRequest
from moatelier.ids import new_id
from modalities.audio import sound
from modalities.media import too_many_bytes
from serving import embeddings, parts, transcripts
from serving.embeddings import LONGEST_TEXT, EmbeddingRequest
from serving.parts import Part
from serving.protocol import DONE, ChatRequest, Wire, usage
from serving.senses import MEDIUM, Senses, Told, chances, decode

MOST_INPUTS = 256
MOST_NAMES, LONGEST_NAME = 1000, 200


class ClassifyRequest(BaseModel):
    """The body of a request for labels: data URIs, texts, or parts as chat has them."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | dict[str, Any] | list[str | dict[str, Any]]
    labels: list[str] | None = Field(default=None, min_length=2, max_length=MOST_NAMES)
    """Ours: names of classes to tell from each other, for a model that sees pictures and words in one space."""
    user: str | None = None

    def parts(self) -> list[Part]:
        """The media in order.

        Raises:
            InvalidRequest: None, too many, or something else; `where` names it.
        """
        return read_inputs(self.input)

    def texts(self) -> list[str]:
        """The texts in order, for a model for texts.

        Raises:
            InvalidRequest: None, too many, or something else; or names of classes are given.
        """
        if self.labels is not None:
            what = f"`{self.model}` does not know things by their names."
            raise InvalidRequest(what, where="labels", remedy="Leave them out: it has labels of its own.")
        found = []
        for place, one in enumerate(read_mixed(self.input)):
            if not isinstance(one, str):
                what = f"`{self.model}` is a model for texts."
                raise InvalidRequest(what, where=f"input[{place}]", remedy="Send texts.")
            found.append(one)
        return found

    def names(self) -> tuple[str, ...]:
        """The classes' names as they are compared; none where the model's own labels are asked for.

        Raises:
            InvalidRequest: An empty or too long one, or one that is there twice; `where` names it.
        """
        names = tuple(name.strip() for name in self.labels or ())
        for place, name in enumerate(names):
            if not name or len(name) > LONGEST_NAME or name in names[:place]:
                what = "There are two labels of this name." if name in names[:place] else "This is no label."
                remedy = f"Name each class once, in 1 to {LONGEST_NAME} characters."
                raise InvalidRequest(what, where=f"labels[{place}]", remedy=remedy)
        return names


def read_inputs(given: Any) -> list[Part]:
    """Pictures or recordings out of a request's `input`. Raises InvalidRequest."""
    found = []
    for place, one in enumerate(read_mixed(given)):
        if isinstance(one, str):
            raise InvalidRequest(
                "Only pictures and recordings are taken here.",
                where=f"input[{place}]",
                remedy="Send data URIs; texts are classified by adapters for texts.",
            )
        found.append(one)
    return found


def read_mixed(given: Any) -> list[Part | str]:
    """Pictures, recordings and texts out of a request's `input`, in order: data URIs, parts as chat has them, words.

    Raises:
        InvalidRequest: None, too many, or something else; `where` names it.
    """
    items = given if isinstance(given, list) else [given]
    if not 1 <= len(items) <= MOST_INPUTS:
        raise InvalidRequest(f"There are {len(items)} inputs.", where="input", remedy=f"Send 1 to {MOST_INPUTS}.")
    return [_input(item, f"input[{place}]") for place, item in enumerate(items)]


def _input(item: Any, where: str) -> Part | str:
    content = _part(item) if isinstance(item, str) else item
    if found := parts.media([{"content": [content]}]):
        return found[0]
    text = content.get("text")
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT:
        what = "This is neither a picture, a recording nor a text."
        raise InvalidRequest(what, where=where, remedy=f"Send a data URI, or 1 to {LONGEST_TEXT} characters.")
    return text


def _part(text: str) -> dict[str, Any]:
    kind = "audio_url" if text[:11].lower() == "data:audio/" else "image_url"
    return (
        {"type": kind, kind: {"url": text}}
        if "://" in text[:20] or text[:5] == "data:"
        else {"type": "text", "text": text}
    )


async def chat(senses: Senses, body: ChatRequest, wire: Wire) -> Response:
    """A chat completion by a model for pictures or recordings: about the last one in the conversation.

    Raises:
        InvalidRequest: The request has none, or asks for what such a model cannot do.
        DataError: It is damaged.
    """
    body.check()
    for field in ("response_format", "ensemble", "prompt_logprobs"):
        if getattr(body, field) is not None:
            what = f"A model for pictures or recordings has no {field}."
            raise InvalidRequest(what, where=field, remedy="Leave it out.")
    sense, _ = senses.found(body.model)
    messages = [message.model_dump() for message in body.messages]
    part = parts.last(messages, MEDIUM[sense.modality])
    temperature, count = body.temperature or 0.0, body.n or 1
    seeds = [None if body.seed is None else body.seed + place for place in range(count)]
    # At a temperature each is another answer; equal seeds would give equal ones.
    options = (_options(sense.modality, temperature=temperature, seed=seed) for seed in seeds)
    asked = (senses.ask(body.model, part, each) for each in options)
    told = await asyncio.gather(*asked)
    logprobs = [_logprobs(one, body.top_logprobs or 0) if body.logprobs else None for one in told]
    if body.stream:
        return StreamingResponse(_streamed(wire, told, logprobs), media_type="text/event-stream")
    answer = wire.body([(one.text, "stop", ()) for one in told], 0, sum(one.tokens for one in told))
    for choice, found in zip(answer["choices"], logprobs, strict=True):
        choice["logprobs"] = found
    return JSONResponse(answer)


async def _streamed(
    wire: Wire, told: Sequence[Told], logprobs: Sequence[dict[str, Any] | None]
) -> AsyncIterator[bytes]:
    for index, (one, found) in enumerate(zip(told, logprobs, strict=True)):
        yield wire.chunk({"role": "assistant", "content": ""}, index)
        yield wire.chunk({"content": one.text}, index, logprobs=found or ())
        yield wire.chunk({}, index, "stop")
    if wire.include_usage:
        yield wire.usage_chunk(0, sum(one.tokens for one in told))
    yield DONE


def _logprobs(told: Told, top: int) -> dict[str, Any]:
    ranked = chances(told)
    return {"content": [ranked[0] | {"top_logprobs": ranked[:top]}], "refusal": None}


def _options(modality: str, **asked: Any) -> Any:
    if modality != "audio":
        return None
    return import_module("modalities.audio.transcribing").Options(**transcripts.options(**asked))


def add_routes(app: FastAPI, senses: Senses) -> None:
    """Put the routes on the engine's server."""

    @app.post("/v1/audio/transcriptions")
    async def transcribe(
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()],
        language: Annotated[str | None, Form()] = None,
        prompt: Annotated[str, Form()] = "",
        temperature: Annotated[float, Form()] = 0.0,
        timestamp_granularities: Annotated[list[str] | None, Form(alias="timestamp_granularities[]")] = None,
        translate: Annotated[bool, Form()] = False,
        stream: Annotated[bool, Form()] = False,
    ) -> Any:
        wanted = timestamp_granularities or []
        asked = _options(
            "audio",
            language=language,
            prompt=prompt,
            temperature=temperature,
            translate=translate,
            timestamps="segment" in wanted,
            words="word" in wanted,
        )
        limit = sound.media()
        data = await file.read(limit.max_bytes + 1)
        if len(data) > limit.max_bytes:
            raise too_many_bytes("file", limit)
        part = Part("audio", data, file.filename or "file")
        if stream:
            seconds, said = await senses.hear(model, part, asked)
            # The first window decides about the status: what goes wrong before it is an error, not a broken stream.
            events = transcripts.events(seconds, await anext(said, ""), said)
            return StreamingResponse(events, media_type="text/event-stream")
        told = await senses.ask(model, part, asked)
        if told.transcript is None:
            what = f"`{model}` tells labels, no transcripts."
            raise InvalidRequest(what, where="model", remedy="Ask /v1/classify.")
        return transcripts.verbose(told.transcript, "translate" if translate else "transcribe", temperature)


async def classify(senses: Senses, body: ClassifyRequest) -> dict[str, Any]:
    """The body of an answer with labels of pictures or recordings, by a model for them or one of its adapters.

    Raises:
        InvalidRequest: Something else is to be classified, or the model has no labels, or others than are asked for.
        DataError: One is damaged.
    """
    names = body.names()
    told = await asyncio.gather(*(senses.ask(body.model, part, names=names) for part in body.parts()))
    return labelled(body.model, told)


def labelled(model: str, told: Sequence[Told], prompt: int = 0) -> dict[str, Any]:
    """The body of an answer with labels, one for each input; `prompt` counts the tokens that were read."""
    found = [_labels(model, place, one) for place, one in enumerate(told)]
    frame = {"id": new_id("classify"), "object": "list", "created": int(time.time()), "model": model}
    return frame | {"data": found, "usage": usage(prompt, len(found))}


def _labels(model: str, place: int, told: Told) -> dict[str, Any]:
    if not told.labels:
        what = f"`{model}` tells what is said, no labels."
        raise InvalidRequest(what, where="model", remedy="Ask /v1/audio/transcriptions.")
    return {
        "index": place,
        "label": told.text,
        "probs": [chance for _, chance in told.labels],
        "labels": [label for label, _ in told.labels],
        "num_classes": len(told.labels),
    }


async def embed(senses: Senses, body: EmbeddingRequest) -> dict[str, Any]:
    """The body of an answer with vectors of pictures or recordings, by a model for them or one of its adapters.

    Texts may stand among pictures where the two share a space: by an adapter that finds pictures by words, or a base
    whose towers were trained together.

    Raises:
        InvalidRequest: Something else is to be embedded, there is no such space, or other dimensions are wanted than
            there are.
    """
    sense, adapter = senses.found(body.model)
    found = read_mixed(body.input)
    medium = MEDIUM[sense.modality]
    for place, one in enumerate(found):
        if (one.medium != medium) if isinstance(one, Part) else sense.modality != "vision":
            what = f"`{body.model}` embeds only what is of the medium {medium}."
            raise InvalidRequest(what, where=f"input[{place}]", remedy="Name a model for the other medium.")
    data = {place: await asyncio.to_thread(decode, one) for place, one in enumerate(found) if isinstance(one, Part)}
    texts = {place: one for place, one in enumerate(found) if isinstance(one, str)}
    vectors = await sense.call(lambda engine: _vectors(engine, adapter, data, texts))
    if body.dimensions not in (None, vectors.shape[1]):
        what = f"This model's vectors have {vectors.shape[1]} numbers."
        raise InvalidRequest(what, where="dimensions", remedy="Leave it out.")
    return embeddings.body(vectors, body.model, body.encoding_format, 0)


def _vectors(engine: Any, adapter: str | None, data: Mapping[int, Any], texts: Mapping[int, str]) -> Any:
    """Vectors of media and texts `[inputs, width]`, in the order of their places."""
    made = dict(zip(texts, engine.embed_texts(list(texts.values()), adapter), strict=True)) if texts else {}
    if data:
        made |= zip(data, engine.embed(list(data.values()), [adapter] * len(data)), strict=True)
    return np.stack([made[place] for place in sorted(made)])
