"""A job whose spec says how it behaves: it counts to `steps`, may die once at a step, hang, or fail."""

import os
import signal
import time
from typing import Any

from moatelier.errors import DataError
from moatelier.job import Job, main


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    for step in range(spec.get("steps", 3)):
        if job.should_stop and job.cancelled and spec.get("leaves"):
            return {"counted": step, "stopped": "cancelled"}
        job.check()
        job.emit("progress", step, steps=spec.get("steps", 3))
        once = job.folder / f"died-{step}"
        if step == spec.get("die_at") and (spec.get("always") or not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(spec.get("pause_s", 0))
    if spec.get("fail"):
        raise DataError("The row is bad.", where="row 7", remedy="Mend it.")
    return {"counted": spec.get("steps", 3)}


if __name__ == "__main__":
    main("tests.graphs.fake_job", work)
