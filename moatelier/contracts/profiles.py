"""A profile of whatever data: of a table of texts, of images or of recordings."""

from typing import Any

from pydantic import TypeAdapter

from moatelier.contracts.images import ImageProfile
from moatelier.contracts.profile import DataProfile
from moatelier.contracts.recordings import AudioProfile

AnyProfile = DataProfile | ImageProfile | AudioProfile
"""All know their `modality`, the `file` and its `name`, the number of `rows`, and `problems`."""
_READER: TypeAdapter[AnyProfile] = TypeAdapter(AnyProfile)


def read_profile(data: Any) -> AnyProfile:
    """A profile from its JSON.

    Raises:
        pydantic.ValidationError: It is none.
    """
    return _READER.validate_python(data)
