"""What all records share."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moatelier.ids import digest_json

Kind = Literal["classification", "chat", "transcription"]
MetricName = Literal["accuracy", "macro_f1", "exact_match", "word_accuracy"]
"""`word_accuracy` is one less the word error rate, so that more is better for all of them."""
SplitName = Literal["train", "dev", "select", "test"]


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class Contract(BaseModel):
    """Base of all records: frozen, JSON-able, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON: equal records have equal digests."""
        return digest_json(self.model_dump(mode="json"))
