"""Rows of preferences for the tiny base, and a card of them."""

from typing import Any

from moatelier.contracts import DatasetCard
from store import artifacts
from tests.training.rows import dataset, rows


def pair_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """`count` pairs in which the courteous answer is chosen."""
    made = []
    for row in rows(count, start):
        told = row["messages"][-1]["content"]
        chosen = [*row["messages"][:-1], {"role": "assistant", "content": f"{told} please"}]
        made.append({**row, "messages": chosen, "rejected": f"{told} order {told}", "label": None})
    return made


def thumb_rows(count: int, good_in_ten: int, start: int = 0) -> list[dict[str, Any]]:
    """`count` answers, so many in ten courteous and with a thumb up."""
    made = []
    for number, pair in enumerate(pair_rows(count, start)):
        good = number % 10 < good_in_ten
        answer = pair["messages"][-1]["content"] if good else pair["rejected"]
        messages = [*pair["messages"][:-1], {"role": "assistant", "content": answer}]
        made.append({"id": pair["id"], "row": pair["row"], "messages": messages, "good": good, "group": None})
    return made


def card_of(kind: str, train: list[dict[str, Any]], dev: list[dict[str, Any]]) -> str:
    """The digest of a card with these rows."""
    plain = DatasetCard.model_validate(artifacts.get_json(dataset(train, dev)))
    return artifacts.put_json(plain.model_copy(update={"kind": kind, "labels": ()}))
