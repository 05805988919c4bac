"""Presidio's pattern recognisers, without any language model.

Importing Presidio imports spaCy and with it torch (seconds, and hundreds of megabytes), so this module is imported by
its dotted path, and only when a text might hold something private: see private.py.
"""

import tldextract
from presidio_analyzer import EntityRecognizer
from presidio_analyzer.predefined_recognizers import (
    CreditCardRecognizer,
    EmailRecognizer,
    IbanRecognizer,
    IpRecognizer,
    PhoneRecognizer,
    UsSsnRecognizer,
)

# Presidio's own would fetch the list of public suffixes from the network; the package brings a copy.
_SUFFIXES = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


class OfflineEmailRecognizer(EmailRecognizer):  # type: ignore[misc]  # Presidio is untyped
    """Presidio's, with the packaged list of public suffixes. `example.com` counts, an invented ending does not."""

    def validate_result(self, pattern_text: str) -> bool:
        """Whether the address ends in a public suffix."""
        return _SUFFIXES(pattern_text).fqdn != ""


_RECOGNISERS: dict[str, EntityRecognizer] = {
    "email": OfflineEmailRecognizer(),
    "credit_card": CreditCardRecognizer(),
    "iban": IbanRecognizer(),
    "us_ssn": UsSsnRecognizer(),
    "ip_address": IpRecognizer(),
    "phone": PhoneRecognizer(),
}


def recognise(text: str) -> list[tuple[str, int, int, float]]:
    """All hits in a text as (kind, start, end, score), overlapping and unsure ones included."""
    return [
        (kind, hit.start, hit.end, hit.score)
        for kind, recogniser in _RECOGNISERS.items()
        for hit in recogniser.analyze(text, recogniser.supported_entities, None) or ()
    ]
