"""What stands in a prompt beside words, however the prompt is cut into pieces."""

import torch

from serving.row import Inset


def test_an_inset_covers_its_places_in_every_piece_of_a_prompt() -> None:
    hidden, states = torch.zeros(10, 2), torch.arange(1.0, 7.0).view(3, 2)
    whole = hidden.clone()
    whole[4:7] = states
    inset = Inset(4, states, "digest")
    for start in range(10):
        for stop in range(start + 1, 11):
            assert torch.equal(inset.over(hidden[start:stop], start), whole[start:stop])
    assert inset.over(hidden.bfloat16(), 0).dtype == torch.bfloat16 and not hidden.any()
