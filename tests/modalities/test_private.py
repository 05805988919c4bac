import subprocess
import sys

import pytest

from modalities.text.private import find_private, redact


@pytest.mark.parametrize(
    ("text", "kind", "datum"),
    [
        ("write to nora.finch@example.com about it", "email", "nora.finch@example.com"),
        ("call me on +44 20 7946 0958 please", "phone", "+44 20 7946 0958"),
        ("my mobile is 020 7946 0958", "phone", "020 7946 0958"),
        ("about my order call 0161 496 0321", "phone", "0161 496 0321"),
        ("reach us: (202) 555-0143", "phone", "(202) 555-0143"),
        ("paid with 4111 1111 1111 1111 yesterday", "credit_card", "4111 1111 1111 1111"),
        ("card 378282246310005", "credit_card", "378282246310005"),
        ("send it to GB82 WEST 1234 5698 7654 32", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("from 203.0.113.42 I see an error", "ip_address", "203.0.113.42"),
        ("my ssn is 536-22-8746", "us_ssn", "536-22-8746"),
    ],
)
def test_private_data_is_found_and_redacted(text: str, kind: str, datum: str) -> None:
    spans = find_private(text)
    assert [(span.kind, text[span.start : span.end]) for span in spans] == [(kind, datum)]
    assert redact(text) == text.replace(datum, f"[{kind}]")


@pytest.mark.parametrize(
    "text",
    [
        "Where is my order LK-48213?",
        "My order number is 48213357 and the invoice is 2024-118823",
        "order 30012345678 has not arrived",
        "tracking number 1234567890123",
        "I paid 1,250.00 on 12/03/2024 at 10:30:15",
        "the app is version 10.2.0.1",
        "It cost 4111 euros, then 1111, then 1111 again",
        "card ending 1111",
        "I bought 4 lamps @ 12 euros each",
        "ticket #4829-3311-20 is still open",
        "Between 2019 and 2023 I ordered 150 times",
        "card number 4111 1111 1111 1112 is a typo",
        "plain words only",
    ],
)
def test_ordinary_support_text_holds_nothing_private(text: str) -> None:
    assert find_private(text) == ()
    assert redact(text) == text


def test_several_in_one_text() -> None:
    text = "I am ida@example.net, phone +1 202-555-0143, card 5555 5555 5555 4444."
    assert redact(text) == "I am [email], phone [phone], card [credit_card]."
    assert redact(redact(text)) == redact(text)


def test_presidio_and_with_it_torch_is_loaded_only_for_a_text_that_needs_it() -> None:
    code = (
        "import sys; from modalities.text import data, private; private.find_private('just words');"
        "print([name for name in ('torch', 'spacy', 'transformers', 'presidio_analyzer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
