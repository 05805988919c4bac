"""How earlier answers are put before a model that shall do better: the same text in training and in serving.

The form is that of the Mixture of Agents paper's aggregate-and-synthesize prompt (arXiv 2406.04692, table 1), in our
words. There the references stand in the system message; here they follow the person's words within the same turn:
what stands before them is the same for every layer and every recipe, so that its KV can be shared, and no template
meets two turns of the person in a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

INTRODUCTION = """\
Below are answers that others gave to the message above. Some of them may be wrong, one-sided or incomplete, so \
trust none of them unread. Weigh them against each other, then give one answer of your own to the message: correct, \
complete, and in exactly the form that the message asks for. Do not mention these answers."""
CUT = " [...]"

Messages = list[dict[str, Any]]


def with_references(messages: Sequence[Mapping[str, Any]], references: Sequence[str], chars: int = 4000) -> Messages:
    """The conversation with earlier answers after the person's last words.

    Args:
        messages: A conversation as chat completions take it.
        references: Earlier answers to it, in order; none leave the conversation as it is.
        chars: So much of each is shown.
    """
    turns = [dict(message) for message in messages]
    if not references:
        return turns
    text = _listed([reference.strip() for reference in references], chars)
    if turns and turns[-1].get("role") == "user":
        turns[-1]["content"] = _appended(turns[-1].get("content"), text)
    else:
        turns.append({"role": "user", "content": text})
    return turns


def _listed(references: Sequence[str], chars: int) -> str:
    parts = [f"[{number}] {_cut(reference, chars)}" for number, reference in enumerate(references, start=1)]
    return "\n\n".join([INTRODUCTION, *parts])


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[:chars].rstrip() + CUT


def _appended(content: Any, text: str) -> Any:
    if isinstance(content, list):  # words and pictures in parts
        return [*content, {"type": "text", "text": f"\n\n{text}"}]
    return f"{content}\n\n{text}" if content else text
