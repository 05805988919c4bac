"""The labels of a text by an adapter for texts: how likely it is to answer each that it was taught, none of it written.

text -> prompt + label + stop token, a row for each label, the prompt computed once -> probabilities among the labels
"""

import math
from collections.abc import Sequence
from functools import partial

from moatelier.contracts import AdapterManifest
from modalities.text.template import encode_row
from serving.driver import Ticket
from serving.engine import TextEngine
from serving.row import Prompt, Row
from serving.sampling import Sampling
from serving.senses import Told
from serving.turns import prompt_ids, require_room

_ASKED = {"role": "user", "content": "a"}
"""What a label's tokens are does not depend on the question."""


def submit(
    engine: TextEngine, adapter: str, manifest: AdapterManifest, text: str, index: int = 0, flow: str = ""
) -> list[Row]:
    """Let a text wait for its labels to be scored.

    Args:
        engine: With the adapter loaded.
        adapter: Its name.
        manifest: The adapter's.
        text: What is to be labelled.
        index: Which text of several it is, for messages.
        flow: Who asks.

    Returns:
        A row for each of the adapter's labels, in their order.

    Raises:
        InvalidRequest: The text fills the context.
        NotFound: No adapter of this name is loaded.
    """
    base = engine.base
    prompt = prompt_ids(base, [{"role": "user", "content": text}], manifest.system, index)
    made = []
    for label in manifest.labels:
        row = encode_row(base.tokenizer, [_ASKED, {"role": "assistant", "content": label}], base.stop_ids)
        answer = [token for token, trained in zip(row.ids, row.trained, strict=True) if trained]
        made.append(Prompt(require_room(base, [*prompt, *answer], index)))
    enter = partial(engine.enter, adapters=[adapter], sampling=Sampling(1), scored=0, limit=0, flow=flow)
    return [row for each in made for row in enter([each], told_from=len(prompt))]


async def told(ticket: Ticket, labels: Sequence[str]) -> Told:
    """Labels with their probabilities among each other, once their rows are over. Raises what they fail with."""
    async for _ in ticket:
        pass
    logprobs = [math.fsum(token.logprob for token in row.prompt_told) for row in ticket.rows]
    weights = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    chances = [weight / sum(weights) for weight in weights]
    ranked = sorted(zip(labels, chances, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return Told(ranked[0][0], tuple(ranked))
