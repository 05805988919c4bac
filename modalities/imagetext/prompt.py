"""Where a picture stands in a prompt, the same in training and in serving.

    ... user turn's header, PICTURE, the question ...   ->   ... header, filler x vectors, the question ...

The filler is the base's padding token. Below the first tuned layer it is read like any token, so that prompts with the
same words share what the frozen layers make of them, whatever the picture; there its states make way for the picture.
"""

from collections.abc import Sequence

from moatelier.errors import InvalidRequest
from modalities.text.template import PICTURE


def spread(ids: Sequence[int], vectors: int, filler: int) -> tuple[list[int], int]:
    """Make room for a picture's vectors.

    Args:
        ids: As `modalities.text.template` gives them, with one `PICTURE`.
        vectors: How many places are needed.
        filler: The token that stands there.

    Returns:
        The ids, and the first of these places.

    Raises:
        InvalidRequest: There is no picture, or more than one.
    """
    places = [place for place, token in enumerate(ids) if token == PICTURE]
    if len(places) != 1:
        raise InvalidRequest(
            f"The conversation has {len(places)} pictures, where one is asked about.",
            where="messages",
            remedy="Send one picture with the question.",
        )
    [place] = places
    return [*ids[:place], *[filler] * vectors, *ids[place + 1 :]], place
