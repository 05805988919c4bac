"""The job that pulls a model: `python -m modalities.pulljob --spec spec.json`, with the spec {"base": "<id>"}."""

from typing import Any

from moatelier.errors import InvalidRequest
from moatelier.job import Job, main
from modalities.pull import pull


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Pull the base; progress events go out for each hundredth of the download.

    Raises:
        InvalidRequest: The spec names no base.
        Cancelled: The job was asked to stop; what was downloaded is kept for the next attempt.
    """
    base = spec.get("base")
    if not isinstance(base, str):
        raise InvalidRequest("The spec of a pull names no base.", where="base", remedy='Give {"base": "<id>"}.')
    told = -1

    def watch(phase: str, done: int, total: int | None) -> None:
        nonlocal told
        job.check()
        step = 100 if phase == "convert" else int(99 * done / total) if total else 0
        if step > told:
            told = step
            job.emit("progress", step, phase="pull", part=phase, done=done, total=total)

    return {"base": base, "digest": pull(base, watch)}


if __name__ == "__main__":
    main("modalities.pulljob", work)
