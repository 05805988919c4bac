"""Tasks of lm-evaluation-harness on our own engine, through its Python API. Needs the extra `harness`.

The harness knows the tasks and the metrics; the engine that serves answers. What is certified, what is served and what
is compared with published figures is then one and the same code. Prompts are plain text, as its published figures are.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from moatelier.errors import InvalidRequest
from modalities.bundle import bundle_folder
from serving.engine import TextEngine
from serving.row import Prompt, completion
from serving.sampling import MAX_STOPS, Sampling

NEW_TOKENS = 256
"""Of an answer, where a task names no limit."""


class OurModel(LM):  # type: ignore[misc]  # the harness has no types
    """A base, or an adapter on it, as the harness asks models.

    Args:
        engine: With the adapter loaded.
        adapter: The name it is loaded under; None is the base.
    """

    def __init__(self, engine: TextEngine, adapter: str | None) -> None:
        super().__init__()
        self._engine, self._adapter = engine, adapter

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log probability in nats, and whether it is the greedy one."""
        return [self._weighed(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log probability of each text in nats, cut at the engine's context into parts of their own."""
        told = []
        for request in requests:
            ids = self._ids(request.args[0])
            parts = [ids[at : at + self._engine.context] for at in range(0, len(ids), self._engine.context)]
            told.append(sum(map(sum, self._engine.score(parts, adapter=self._adapter))))
        return told

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model says to each text, up to one of its stops."""
        rows = []
        for request in requests:
            text, wanted = request.args
            limit = int(wanted.get("max_gen_toks", NEW_TOKENS))
            stops = wanted.get("until") or ()
            sampling = Sampling(
                max_tokens=limit,
                temperature=float(wanted.get("temperature", 0.0)) if wanted.get("do_sample") else 0.0,
                stop=tuple(filter(None, [stops] if isinstance(stops, str) else stops))[:MAX_STOPS],
            )
            ids = self._ids(text)[-(self._engine.context - limit) :]
            rows += self._engine.enter([Prompt(ids)], adapters=[self._adapter], sampling=sampling)
        self._engine.finish(rows)
        return [completion(row).text for row in rows]

    def _ids(self, text: str) -> list[int]:
        tokenizer = self._engine.base.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids or [tokenizer.eos_token_id]

    def _weighed(self, context: str, continuation: str) -> tuple[float, bool]:
        whole, given = self._ids(context + continuation), len(self._ids(context)) if context else 0
        if not given:  # the first token is told by what ends a text
            whole, given = [self._engine.base.tokenizer.eos_token_id, *whole], 1
        cut = max(0, len(whole) - self._engine.context)
        whole, given = whole[cut:], max(1, given - cut)
        [row] = self._engine.enter(
            [Prompt(whole)], adapters=[self._adapter], sampling=Sampling(1), scored=1, told_from=1, limit=0
        )
        self._engine.finish([row])
        told = row.prompt_told[given - 1 :]
        return sum(one.logprob for one in told), all(one.top and one.top[0][0] == one.token for one in told)


def evaluate(
    base: str, bundle: str | None, tasks: Sequence[str], *, limit: int | None, include: str | None = None
) -> dict[str, Any]:
    """Run tasks.

    Args:
        base: Catalogue id.
        bundle: Digest of an adapter on it; None is the base.
        tasks: Names of tasks, groups or tags as the harness knows them.
        limit: So many documents of each task at most.
        include: A folder with further tasks as YAML.

    Returns:
        `results` by task and metric, `versions` of the tasks, and how many documents each had.

    Raises:
        InvalidRequest: There is no such task, or its data cannot be had.
    """
    manager = TaskManager(include_path=include)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise InvalidRequest(
            f"The harness has no task {', '.join(unknown)}.",
            where="harness",
            remedy="List them: lm_eval ls tasks. Tasks of your own: --include FOLDER.",
        )
    engine = TextEngine(base)
    if bundle is not None:
        engine.load_adapter(bundle, bundle_folder(bundle))
    try:
        found = simple_evaluate(
            OurModel(engine, bundle), tasks=list(tasks), limit=limit, task_manager=manager, log_samples=False
        )
    except (OSError, ConnectionError) as error:
        raise InvalidRequest(
            f"The task's data cannot be had: {error}", where="harness", remedy="See that its data lies here."
        ) from error
    assert found is not None, "one process alone gives the results"
    return {name: found[name] for name in ("results", "versions", "n-samples") if name in found}
