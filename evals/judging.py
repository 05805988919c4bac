"""A model of an upstream that judges pairs of answers, each in both orders; see `evals.measures.preferences`."""

import asyncio
from collections.abc import Sequence

from evals.guards import GUARD_S
from evals.measures import Preferences, preferences
from moatelier.errors import InvalidRequest, UpstreamError
from moatelier.settings import settings
from serving.upstream import Upstream


def over_upstream(rows: Sequence[tuple[str, str, str]], judge: str, limit_s: float = GUARD_S) -> Preferences:
    """What a judge prefers; an answer that is none, late or junk is counted and decides nothing.

    Args:
        rows: (question, ours, theirs), at least one.
        judge: `<upstream>/<model>`.
        limit_s: Time for one answer of it.

    Raises:
        InvalidRequest: No such upstream is configured.
        DataError: There are no rows.
    """
    name, _, model = judge.partition("/")
    if not model or name not in settings().upstreams:
        raise InvalidRequest(
            "The judge is no model of a configured upstream.",
            where=judge,
            remedy="Name it `<upstream>/<model>`, with the upstream in MOATELIER_UPSTREAMS.",
        )
    return asyncio.run(_judge(rows, name, model, limit_s))


async def _judge(rows: Sequence[tuple[str, str, str]], name: str, model: str, limit_s: float) -> Preferences:
    endpoint = settings().upstreams[name]
    async with Upstream(endpoint.url, endpoint.secret, limit_s) as upstream:

        async def ask(messages: list[dict[str, str]]) -> str:
            try:
                async with asyncio.timeout(limit_s):
                    said = await upstream.chat({"model": model, "messages": messages, "temperature": 0})
                return str(said["choices"][0]["message"]["content"])
            except TimeoutError as error:
                raise UpstreamError("The judge did not answer in time.", where=name) from error
            except (KeyError, IndexError, TypeError) as error:
                raise UpstreamError("The judge's answer is no chat completion.", where=name) from error

        return await preferences(rows, ask)
