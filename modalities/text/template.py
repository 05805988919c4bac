"""Messages to token ids and back, by the base's own chat template: the same code trains, evaluates and serves.

A conversation is tokenised in segments: up to each generation prompt, then the assistant's turn with the stop token
that ends it. So the ids before a trained span are exactly those that serving feeds before it generates, and answers
that come back as history have the ids they were generated with. Special tokens written out in a message are text.
A message with `"picture": True` begins with a place for a picture: the id `PICTURE`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from moatelier.errors import DataError
from moatelier.ids import digest_json

Messages = Sequence[dict[str, Any]]
PICTURE = -1
"""Stands among a conversation's ids where a picture belongs; no token has it."""
_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters that stand in for special tokens written out by people
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_tokenising = Lock()  # `split_special_tokens` switches the tokenizer itself, under the feet of other threads


@dataclass(frozen=True)
class Encoded:
    """A row as token ids, and which of them the loss counts: the assistant's content and its stop tokens."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class _Segment:
    text: str
    answer: bool


def template_digest(tokenizer: Any) -> str:
    """SHA-256 of what turns messages into text: the chat template and the tokens it may insert."""
    return digest_json([tokenizer.chat_template, {k: str(v) for k, v in tokenizer.special_tokens_map.items()}])


def render(tokenizer: Any, messages: Messages, add_generation_prompt: bool) -> list[int]:
    """The ids of a conversation, as the model is fed them.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: `{"role", "content"}` each; the template may put a default system message before them.
        add_generation_prompt: End with the header of the assistant's turn, for the model to go on from.

    Raises:
        DataError: The template refuses the messages, such as two user turns in a row.
    """
    safe, special = _hide_special(tokenizer, messages)
    segments = _segments(tokenizer, safe, add_generation_prompt)
    return [token for segment in segments for token in _tokenise(tokenizer, segment.text, special)]


def answer_header(tokenizer: Any) -> list[int]:
    """The ids that open an assistant's turn, after which the model goes on."""
    turns = [{"role": "user", "content": "a"}]
    closed, opened = render(tokenizer, turns, False), render(tokenizer, turns, True)
    return opened[len(closed) :]


def encode_row(tokenizer: Any, messages: Messages, stop_ids: Sequence[int]) -> Encoded:
    """The ids of a training row with the mask of those that are trained.

    Trained are exactly the tokens of each assistant turn's content and the one stop token that ends it.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: The row's messages; the last one is the assistant's.
        stop_ids: The ids at which generation stops.

    Raises:
        DataError: The row does not end with an answer, a turn would not end in a stop token, or the template rewrites
            earlier turns so that training and serving would see different prompts.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(
            "The row does not end with the assistant's message.",
            where="messages",
            remedy="End each row with the answer to learn.",
        )
    safe, special = _hide_special(tokenizer, messages)
    segments = _segments(tokenizer, safe, False)
    if sum(segment.answer for segment in segments) != sum(message["role"] == "assistant" for message in messages):
        raise DataError(
            "The base's chat template rewrites earlier turns, so that this row cannot be trained as it is served.",
            where="messages",
            remedy="Use rows with one answer each, or another base.",
        )
    ids: list[int] = []
    trained: list[bool] = []
    for segment in segments:
        tokens = _tokenise(tokenizer, segment.text, special)
        learn = _stop_position(tokens, stop_ids) + 1 if segment.answer else 0
        ids += tokens
        trained += [position < learn for position in range(len(tokens))]
    return Encoded(ids, trained)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of plain text, without any template; special tokens written out in it are text."""
    with _tokenising:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def answer_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Generated ids as text, without special tokens and otherwise unchanged."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _stop_position(tokens: Sequence[int], stop_ids: Sequence[int]) -> int:
    position = next((index for index, token in enumerate(tokens) if token in stop_ids), None)
    if position is None:
        raise DataError(
            "The assistant's turn would not end in a stop token, so that the model would learn never to stop.",
            where="messages",
            remedy="Use a base whose chat template closes the assistant's turn with its stop token.",
        )
    return position


def _segments(tokenizer: Any, messages: Messages, add_generation_prompt: bool) -> list[_Segment]:
    """Cut the rendered text at the answers; in one piece if the template does not keep earlier turns as they are."""
    whole = _text(tokenizer, messages, add_generation_prompt)
    last = len(messages) - 1
    segments: list[_Segment] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _text(tokenizer, messages[:index], True)
        ends = index == last and not add_generation_prompt
        upto = whole if ends else _text(tokenizer, messages[: index + 1], False)
        if not (prompt.startswith(done) and upto.startswith(prompt) and whole.startswith(upto)):
            return [_Segment(whole, False)]
        segments += [_Segment(prompt[len(done) :], False), _Segment(upto[len(prompt) :], True)]
        done = upto
    return [segment for segment in [*segments, _Segment(whole[len(done) :], False)] if segment.text]


def _text(tokenizer: Any, messages: Messages, add_generation_prompt: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except Exception as error:  # jinja's own errors and whatever a template raises
        raise DataError(
            f"The base's chat template refuses these messages: {error}",
            where="messages",
            remedy="Let user and assistant take turns, with at most one system message, at the start.",
        ) from error


def _hide_special(tokenizer: Any, messages: Messages) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Put marks in place of special tokens that people wrote out, so that the template's own stay the only ones.

    The mark with the number after theirs is a picture.
    """
    special = _special_tokens(tokenizer)
    pattern = _pattern(special)
    hidden = []
    for message in messages:
        text = _MARK.sub("", message["content"])
        if pattern is not None:
            text = pattern.sub(lambda match: f"{_OPEN}{special.index(match.group())}{_CLOSE}", text)
        if message.get("picture"):
            text = f"{_OPEN}{len(special)}{_CLOSE}{text}"
        hidden.append({**message, "content": text})
    return hidden, special


@lru_cache(maxsize=4)
def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    # Only control tokens: some vocabularies also add runs of blanks or `<think>`, which people may well mean.
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted((text for text in special if text.strip()), key=len, reverse=True))


@lru_cache(maxsize=16)
def _pattern(special: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, special))) if special else None


def _tokenise(tokenizer: Any, text: str, special: tuple[str, ...]) -> list[int]:
    ids: list[int] = []
    for number, piece in enumerate(_MARK.split(text)):
        literal = number % 2 == 1
        if literal and int(piece) == len(special):
            ids.append(PICTURE)
            continue
        content = special[int(piece)] if literal else piece
        if content:
            with _tokenising:
                ids += tokenizer(content, add_special_tokens=False, split_special_tokens=literal).input_ids
    return ids
