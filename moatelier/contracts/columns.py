"""Which column of a table plays which role, by modality."""

from pydantic import Field

from moatelier.contracts.base import Contract


class Columns(Contract):
    """Which column plays which role. Classification needs `input` and `target`; chat `messages`, or both.

    For preferences `target` is the chosen answer, or the one that a thumb is about.
    """

    input: str | None = None
    target: str | None = None
    messages: str | None = None
    group: str | None = None
    rejected: str | None = Field(default=None, exclude_if=lambda column: column is None)
    """The answer that is liked less."""
    thumb: str | None = Field(default=None, exclude_if=lambda column: column is None)
    """Whether an answer is good: true or false, 1 or 0, yes or no, up or down, good or bad."""

    @property
    def told(self) -> str | None:
        """The one that holds what is to be answered."""
        return self.target or self.messages


class ImageColumns(Contract):
    """Which column of a table of images plays which role."""

    image: str
    """A path in the folder or archive beside the table, or a data URI."""
    label: str | None = None
    caption: str | None = None
    group: str | None = None
    """Source, patient, author: images of one stay in one split."""
    licence: str | None = None

    @property
    def told(self) -> str | None:
        """The one that holds what is to be answered."""
        return self.label or self.caption


class AudioColumns(Contract):
    """Which column of a table of recordings plays which role."""

    audio: str
    """A path in the folder or archive beside the table, or a data URI."""
    text: str | None = None
    """What is said."""
    label: str | None = None
    speaker: str | None = None
    source: str | None = None
    """The call, the broadcast, the session that a recording was cut from."""
    licence: str | None = None

    @property
    def told(self) -> str | None:
        """The one that holds what is to be answered."""
        return self.text or self.label


AnyColumns = Columns | ImageColumns | AudioColumns
"""Of text, images or recordings. Media without a table have none, and so `Columns()`."""
