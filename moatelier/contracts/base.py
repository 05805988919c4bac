"""What all records share."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moatelier.ids import digest_json

Kind = Literal["classification", "chat", "transcription", "retrieval", "pretraining", "preference", "thumbs", "prompts"]
"""`pretraining` goes on with plain text: no questions, no answers, every token is learnt. `preference`: pairs of a
chosen and a rejected answer; `thumbs`: answers with a thumb up or down; `prompts`: what is asked and no more, for
training by rewards."""
MetricName = Literal[
    "accuracy", "macro_f1", "exact_match", "word_accuracy", "recall_at_1", "recall_at_5", "preference_accuracy"
]
"""`word_accuracy` is one less the word error rate, so that more is better for all of them. Recall is of both ways: of
pictures by their captions, and of captions by their pictures."""
CANDIDATES = 50
"""So many pictures and captions one is sought among when recall is measured."""
SplitName = Literal["train", "dev", "select", "test"]


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class Contract(BaseModel):
    """Base of all records: frozen, JSON-able, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the record's canonical JSON: equal records have equal digests."""
        return digest_json(self.model_dump(mode="json"))
