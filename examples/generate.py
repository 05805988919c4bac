"""Write the example data: `python -m examples.generate` reproduces every byte of support.csv and assistant.jsonl.

support.csv has 15 intents, one of them rare, and planted faults for the finders to find: exact and near duplicates,
wrong labels, private data. planted.json says which data rows (from 1) they are. All of it is invented: the domains,
phone numbers, cards and networks are those set aside for examples and tests.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.dialogues import TOPICS, Topic
from examples.dice import Dice
from examples.sentences import BACKGROUND, ENDINGS, INTENTS, OPENINGS, SLOTS

FOLDER = Path(__file__).resolve().parent
SEED = 20240
RARE = "gift_wrapping"
ROWS_PER_INTENT, RARE_ROWS = 68, 12
EXACT, NEAR, WRONG = 18, 18, 20
CHAT_ROWS = 132
ALIKE, NEARLY = 0.5, 0.75
"""Messages, and chat questions, that share more word 3-grams than this with an earlier one are drawn again."""

SUBJECT = ("product", "order", "person", "city")
"""Slots that mean the same thing throughout a message."""

PRIVATE = (
    ("email", "You can write to {} about it.", ("nora.finch@example.com", "t.okafor@example.org", "ida@example.net")),
    ("phone", "Please call me on {}.", ("+44 20 7946 0958", "+1 202-555-0143", "+44 161 496 0321")),
    ("credit_card", "I paid with the card {}.", ("4111 1111 1111 1111", "5555 5555 5555 4444", "378282246310005")),
    ("iban", "My account is {}.", ("GB82 WEST 1234 5698 7654 32", "DE89 3704 0044 0532 0130 00")),
    ("ip_address", "Your site shows my address {} in the error.", ("203.0.113.42", "198.51.100.7")),
    ("email", "My partner ({}) would like to know as well.", ("sam.reed@example.com", "lena.park@example.org")),
)  # fmt: skip


@dataclass
class Ticket:
    """One row of support.csv, and how it came about."""

    message: str
    intent: str
    planted: str = ""
    detail: dict[str, str] = field(default_factory=dict)
    source: "Ticket | None" = None


def expand(pattern: str, dice: Dice, subject: dict[str, str]) -> str:
    """A sentence of a pattern: `(a|b)` becomes one of its options, a slot one of its fillings, none used twice.

    Args:
        pattern: See sentences.py.
        dice: Where the choices come from.
        subject: What the whole message is about (one product, one order); filled in as it goes.
    """
    text = re.sub(r"\(([^()]*\|[^()]*)\)", lambda match: dice.pick(match[1].split("|")), pattern)
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        value = dice.pick([option for option in SLOTS[match[1]] if option not in used])
        if match[1] in SUBJECT:
            known = subject.setdefault(match[1], value)
            value = value if known in used else known
        used.add(value)
        return value

    text = re.sub(r"\{(\w+)\}", fill, text)
    text = re.sub(r" +([.,?!])", r"\1", re.sub(r" {2,}", " ", text)).strip()
    return text[:1].upper() + text[1:]


def grams(text: str) -> frozenset[str]:
    """The word 3-grams of a text, by which likeness is measured."""
    words = re.findall(r"\w+(?:['’]\w+)*", text.lower())
    return frozenset(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def alike(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity."""
    return len(left & right) / len(left | right)


def message(pattern: str, dice: Dice) -> str:
    """A customer's message around one core sentence, sometimes in the careless spelling of a chat."""
    subject: dict[str, str] = {}
    core = expand(pattern, dice, subject)
    parts = [expand(dice.pick(BACKGROUND), dice, subject)] if dice.chance(0.45) else []
    parts += [core]
    parts += [expand(dice.pick(ENDINGS), dice, subject)] if dice.chance(0.4) else []
    text = " ".join(parts)
    if dice.chance(0.4):
        text = greet(dice.pick(OPENINGS), text)
    return text.lower().rstrip(".!") if dice.chance(0.2) else text


def greet(opening: str, text: str) -> str:
    """A text behind an opening; after a comma it goes on in lower case."""
    if opening.rstrip().endswith(",") and not re.match(r"I\b|LK", text):
        text = text[:1].lower() + text[1:]
    return opening + ("" if opening.endswith("\n") else " ") + text


def write_tickets(intent: str, count: int, seen: list[frozenset[str]], dice: Dice) -> list[Ticket]:
    """Distinct messages of one intent, its patterns in turn."""
    found: list[Ticket] = []
    patterns = dice.shuffled(INTENTS[intent])
    while len(found) < count:
        text = message(patterns[len(found) % len(patterns)], dice)
        shape = grams(text)
        if all(alike(shape, other) < ALIKE for other in seen):
            seen.append(shape)
            found.append(Ticket(text, intent))
    return found


def plant_private(tickets: Sequence[Ticket]) -> None:
    """Add an invented private datum to a row for each value of PRIVATE."""
    data = [(kind, sentence.format(value)) for kind, sentence, values in PRIVATE for value in values]
    for ticket, (kind, sentence) in zip(tickets, data, strict=False):
        ticket.message = f"{ticket.message.rstrip()} {sentence}"
        ticket.planted, ticket.detail = "private", {"kind": kind}


def plant_wrong_labels(tickets: Sequence[Ticket], dice: Dice) -> None:
    """Give rows the label of another intent."""
    others = [intent for intent in INTENTS if intent != RARE]
    for ticket in tickets:
        true = ticket.intent
        ticket.intent = dice.pick([intent for intent in others if intent != true])
        ticket.planted, ticket.detail = "wrong_label", {"true": true}


def copies(tickets: Sequence[Ticket], dice: Dice) -> list[Ticket]:
    """Exact copies, half of them in other case and spacing, and near copies with a word or two more."""
    exact = [
        Ticket(
            source.message if dice.chance(0.5) else f" {source.message.upper()} ", source.intent, "exact", {}, source
        )
        for source in tickets[:EXACT]
    ]
    near = []
    for source in (ticket for ticket in tickets[EXACT:] if len(grams(ticket.message)) >= 10):
        text = f"{source.message.rstrip()} {dice.pick(('Please.', 'Thank you!', 'Asap!', 'Really.'))}"
        near.append(Ticket(text, source.intent, "near", {}, source))
    return exact + near[:NEAR]


def make_support() -> tuple[str, str]:
    """The contents of support.csv and planted.json."""
    dice = Dice(SEED)
    seen: list[frozenset[str]] = []
    tickets: list[Ticket] = []
    for intent in INTENTS:
        tickets += write_tickets(intent, RARE_ROWS if intent == RARE else ROWS_PER_INTENT, seen, dice)
    common = dice.shuffled([ticket for ticket in tickets if ticket.intent != RARE])
    plant_private(common[:20])
    plant_wrong_labels(common[20 : 20 + WRONG], dice)
    tickets = dice.shuffled(tickets + copies(common[20 + WRONG :], dice))
    return _csv(tickets, dice), _planted(tickets)


def _csv(tickets: Sequence[Ticket], dice: Dice) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ticket", "channel", "message", "intent"])
    for number, ticket in enumerate(tickets, start=20001):
        writer.writerow([number, dice.pick(("email", "chat", "web form")), ticket.message, ticket.intent])
    return text.getvalue()


def _planted(tickets: Sequence[Ticket]) -> str:
    rows = {id(ticket): row for row, ticket in enumerate(tickets, start=1)}
    lines = []
    for row, ticket in enumerate(tickets, start=1):
        if ticket.source:  # of two copies the later one is the repetition
            first, later = sorted((row, rows[id(ticket.source)]))
            lines.append({"fault": ticket.planted, "row": later, "of": first})
        elif ticket.planted:
            lines.append({"fault": ticket.planted, "row": row, **ticket.detail})
    lines.sort(key=lambda line: (str(line["fault"]), line["row"]))
    faults = ",\n  ".join(json.dumps(line) for line in lines)
    return f'{{\n "rare_class": "{RARE}",\n "faults": [\n  {faults}\n ]\n}}\n'


def make_assistant() -> str:
    """The contents of assistant.jsonl: chat rows, about every fifth with a second turn."""
    dice = Dice(SEED + 1)
    seen: list[frozenset[str]] = []
    lines: list[str] = []
    while len(lines) < CHAT_ROWS:
        topic = TOPICS[len(lines) % len(TOPICS)]
        question = _question(topic, dice)
        shape = grams(question)
        if any(alike(shape, other) >= NEARLY for other in seen):
            continue
        seen.append(shape)
        turns = [(question, topic.answer)]
        turns += [topic.follow_ups[0]] if topic.follow_ups and dice.chance(0.35) else []
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def _question(topic: Topic, dice: Dice) -> str:
    subject: dict[str, str] = {}
    text = expand(dice.pick(topic.questions), dice, subject)
    text = f"{text} {expand(dice.pick(ENDINGS), dice, subject)}" if dice.chance(0.25) else text
    return greet(dice.pick(OPENINGS), text) if dice.chance(0.3) else text


def main() -> None:
    """Write the three files into this folder."""
    support, planted = make_support()
    contents = {"support.csv": support, "planted.json": planted, "assistant.jsonl": make_assistant()}
    for name, text in contents.items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
