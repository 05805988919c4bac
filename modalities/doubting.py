"""The job that asks a base about rows which are to be curated: `python -m modalities.doubting --spec spec.json`.

The spec names the modality, whose part answers it, and the base; see the modality's `curating` for the rest.
"""

from typing import Any

from moatelier.errors import InvalidRequest
from moatelier.faults import fault_point
from moatelier.job import Job, main
from modalities import registry

PARTS = {"audio": "modalities.audio.doubting:work", "vision": "modalities.vision.doubting:work"}
"""Modality -> what answers."""


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Answer as the modality does.

    Raises:
        InvalidRequest: The base has nothing to say about rows of this modality.
        ModelUnavailable: It is not pulled.
        Cancelled: The job was asked to stop.
    """
    modality = str(spec.get("modality"))
    if modality not in PARTS:
        raise InvalidRequest(
            f"No base is asked about rows of {modality!r}.", where="modality", remedy=f"Use one of {', '.join(PARTS)}."
        )
    answered: dict[str, Any] = registry.load(PARTS[modality])(spec, job)
    fault_point("doubt.answered")
    return answered


if __name__ == "__main__":
    main("modalities.doubting", work)
