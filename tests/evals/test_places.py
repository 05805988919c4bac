"""Places in texts are looked up, never evaluated."""

import pytest

from evals.places import filled
from moatelier.errors import DataError

KNOWN = {"item": {"a": {"b": [1, {"c": "deep"}]}, "text": "{{ item.a }}"}, "sample": {"output_text": "said"}}


def test_places_are_filled_with_texts_and_json() -> None:
    told = filled("{{item.a.b[1].c}} / {{ item.a.b }} / {{sample.output_text}} / {not a place}", KNOWN)
    assert told == 'deep / [1, {"c": "deep"}] / said / {not a place}'


def test_what_was_filled_in_is_no_place_itself() -> None:
    assert filled("{{ item.text }}", KNOWN) == "{{ item.a }}"


@pytest.mark.parametrize(
    "place", ["item.none", "item.a.b[9]", "item.__class__", "settings.key", "item.a.b.append", "1 + 1", ""]
)
def test_a_place_that_names_nothing_is_refused(place: str) -> None:
    with pytest.raises(DataError, match="in the item"):
        filled(f"{{{{ {place} }}}}", KNOWN)
