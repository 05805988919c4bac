"""What an image tower makes of labels that are to be curated."""

from typing import Any

from moatelier.job import Job
from modalities.vision.doubt import suspicious
from modalities.vision.rows import ImageRow


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Answer `modalities.vision.curating.doubts`.

    Returns:
        `suspicious`: a list of `Suspicion`, worst first.

    Raises:
        ModelUnavailable: The base is not pulled.
        Cancelled: The job was asked to stop.
    """

    def watch(done: int, batches: int) -> None:
        job.check()
        job.emit("progress", done, phase="look", done=done, total=batches)

    rows = [ImageRow(number, image, pixels, label=label) for number, image, pixels, label in spec["rows"]]
    found = suspicious(rows, spec["base"], spec.get("size"), watch)
    return {"suspicious": [suspicion.model_dump(mode="json") for suspicion in found]}
