"""`/v1/completions`, the older dialect: a text is continued as it stands, without the template of a conversation.

`moa/<name>` and models that are no text models take the prompt as a person's one message.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse

from api import translated
from api.auth import Project
from api.bodies import Body, wants_usage
from api.routes.openai.conversing import NAME as CONVERSATION
from api.services import Shared
from moatelier.contracts.recipes import PREFIX
from moatelier.errors import InvalidRequest
from serving import sse

router = APIRouter()
MOST_PROMPTS, MOST_LOGPROBS = 16, 5
PASSED_ON = ("temperature", "top_p", "top_k", "seed", "stop", "max_tokens", "n", "stream_options", "deadline_s")
REFUSED: dict[str, tuple[Any, ...]] = {
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
}
"""Each would change the answer; what it may be nevertheless, because it changes nothing."""
DEFAULT_MAX_TOKENS = 16
"""As the dialect has it."""


@router.post("/v1/completions")
async def complete(request: Request, project: Project, shared: Shared, body: Body) -> Response:
    """One or more texts continued, whole or as a stream."""
    asked = [(prompt, _asked(body, prompt)) for prompt in _prompts(body)]
    if body.get("stream"):
        first, headers = await translated.streamed(request, project, shared, asked[0][1])

        async def following() -> AsyncIterator[tuple[str, AsyncIterator[dict[str, Any]]]]:
            yield asked[0][0], first
            for prompt, each in asked[1:]:
                yield prompt, (await translated.streamed(request, project, shared, each))[0]

        events = _stream(following(), body.get("n") or 1, wants_usage(body))
        return EventSourceResponse(events, sep="\n", headers=headers)
    answers, headers = [], {}
    for _, each in asked:
        answer, headers = await translated.whole(request, project, shared, each)
        answers.append(answer)
    return JSONResponse(_joined(answers, [prompt for prompt, _ in asked]), headers=headers)


def _prompts(body: dict[str, Any]) -> list[str]:
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(each, str) and each for each in prompts):
        raise InvalidRequest("The prompt is no text.", where="prompt", remedy="Send a text, or a list of texts.")
    if len(prompts) > MOST_PROMPTS:
        raise InvalidRequest(f"More than {MOST_PROMPTS} prompts.", where="prompt", remedy="Send several requests.")
    return prompts


def _asked(body: dict[str, Any], prompt: str) -> dict[str, Any]:
    """The chat completion that continues one prompt.

    Raises:
        InvalidRequest: A field that cannot be honoured.
    """
    for name, allowed in REFUSED.items():
        if body.get(name) not in allowed:
            raise InvalidRequest(f"{name} is not supported.", where=name, remedy="Leave it out.")
    if body.get("model") == CONVERSATION:
        remedy = "Ask /v1/chat/completions."
        raise InvalidRequest("A conversation is no text to continue.", where="model", remedy=remedy)
    asked = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    asked |= {"model": body.get("model"), "messages": [{"role": "user", "content": prompt}]}
    asked.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    if not str(body.get("model")).startswith(PREFIX):
        asked["raw"] = True
    logprobs = body.get("logprobs")
    if logprobs is not None:
        if type(logprobs) is not int or not 0 <= logprobs <= MOST_LOGPROBS:
            what = f"logprobs is a whole number from 0 to {MOST_LOGPROBS}."
            raise InvalidRequest(what, where="logprobs")
        asked |= {"logprobs": True} | ({"top_logprobs": logprobs} if logprobs else {})
    return asked


def _joined(answers: Sequence[dict[str, Any]], prompts: Sequence[str]) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    used = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    for answer, prompt in zip(answers, prompts, strict=True):
        for choice in answer["choices"]:
            told = _logprobs(choice.get("logprobs"), len(prompt))
            text = choice["message"]["content"] or ""
            reason = choice["finish_reason"]
            choices.append({"index": len(choices), "text": text, "logprobs": told, "finish_reason": reason})
        used = _summed(used, answer.get("usage"))
    return _frame(answers[0]) | {"choices": choices, "usage": used}


def _summed(used: dict[str, int], more: Any) -> dict[str, int]:
    return {name: count + int((more or {}).get(name) or 0) for name, count in used.items()}


def _frame(answer: dict[str, Any]) -> dict[str, Any]:
    kept = ("id", "created", "model", "system_fingerprint", "moatelier")
    return {"object": "text_completion"} | {name: answer[name] for name in kept if name in answer}


def _logprobs(told: Any, offset: int) -> dict[str, Any] | None:
    """Log probabilities as the older dialect lists them; `offset` is where the text begins, behind its prompt."""
    content = (told or {}).get("content")
    if not content:
        return None
    offsets = []
    for token in content:
        offsets.append(offset)
        offset += len(token["token"])
    top = [{each["token"]: each["logprob"] for each in (*token["top_logprobs"], token)} for token in content]
    return {
        "tokens": [token["token"] for token in content],
        "token_logprobs": [token["logprob"] for token in content],
        "top_logprobs": top,
        "text_offset": offsets,
    }


async def _stream(
    parts: AsyncIterator[tuple[str, AsyncIterator[dict[str, Any]]]], choices: int, include_usage: bool
) -> AsyncIterator[bytes]:
    """The events of one prompt after the other; the choices of each are counted on from those before."""
    used, before, frame = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0), 0, None
    async for prompt, chunks in parts:
        places: dict[int, int] = {}
        async with aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                if "error" in chunk:
                    yield sse.event(chunk)
                    return
                frame = frame or _frame(chunk)
                used = _summed(used, chunk.get("usage"))
                for choice in chunk["choices"]:
                    if (made := _piece(choice, before, len(prompt), places)) is not None:
                        blank = {"usage": None} if include_usage else {}
                        yield sse.event(frame | {"choices": [made]} | blank)
        before += choices
    if include_usage and frame:
        yield sse.event(frame | {"choices": [], "usage": used})
    yield b"data: [DONE]\n\n"


def _piece(choice: dict[str, Any], before: int, offset: int, places: dict[int, int]) -> dict[str, Any] | None:
    """A choice of a chunk; None when it says nothing. `places` is how long each choice's text is by now."""
    text, index = (choice.get("delta") or {}).get("content") or "", choice["index"]
    told = _logprobs(choice.get("logprobs"), offset + places.get(index, 0))
    places[index] = places.get(index, 0) + len(text)
    if not text and not told and not choice.get("finish_reason"):
        return None
    return {"index": before + index, "text": text, "logprobs": told, "finish_reason": choice.get("finish_reason")}
