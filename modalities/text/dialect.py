"""The rows of OpenAI's fine-tuning files, brought to the form of any other JSON lines.

    {"messages": [{"role": "developer", "content": [{"type": "text", "text": "..."}]}, ...]}
    {"input": {"messages": [...]}, "preferred_output": [{"role": "assistant", ...}], "non_preferred_output": [...]}

A prompt of several turns stays a list of messages; an answer of one message becomes its text. What has no such form is
left as it is, so that whoever reads the row tells what is wrong with it.
"""

from collections.abc import Mapping
from typing import Any

ANSWERS = ("preferred_output", "non_preferred_output")
_ROLES = {"developer": "system"}
_TEXT_PARTS = ("text", "input_text", "output_text")


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values in the common form."""
    found = dict(values)
    if isinstance(found.get("messages"), list):
        found["messages"] = [turn(each) for each in found["messages"]]
    asked = found.get("input")
    if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
        found["input"] = [turn(each) for each in asked["messages"]]
    for name in ANSWERS:
        if name in found:
            found[name] = _answer(found[name])
    return found


def turn(value: Any) -> Any:
    """A message with a role and a text that our models know."""
    if not isinstance(value, dict):
        return value
    role, content = value.get("role"), value.get("content")
    changed = {"role": _ROLES.get(role, role)} if isinstance(role, str) else {}
    if isinstance(content, list) and content and all(_is_text(part) for part in content):
        changed["content"] = "".join(part["text"] for part in content)
    return {**value, **changed}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)


def _answer(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        only = turn(value[0])
        if isinstance(only, dict) and only.get("role") == "assistant" and isinstance(only.get("content"), str):
            return only["content"]
    return value
