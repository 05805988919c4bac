"""Preferences and rewards as jobs of the OpenAI dialect, trained for real on the tiny model."""

from pathlib import Path

import pytest
from openai import OpenAI

from tests.conformance.serving import asked_file, pairs_file
from tests.e2e.test_jobs import client as client
from tests.e2e.test_jobs import end, start
from tests.e2e.test_jobs import service as service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("method", ["dpo", "reinforcement"])
def test_the_other_methods_train_too(client: OpenAI, tmp_path: Path, method: str) -> None:
    grader = {"type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match"}
    grader |= {"input": "{{sample.output_text}}", "reference": "{{item.sum}}"}
    configured = {"dpo": {}, "reinforcement": {"grader": grader, "hyperparameters": {"n_epochs": 1, "batch_size": 8}}}
    file = (pairs_file if method == "dpo" else asked_file)(tmp_path / "rows.jsonl", 50)
    job = start(client, file, method={"type": method, method: configured[method]})
    done = end(client, job)
    assert done.status == "succeeded", done.error
    events = list(client.fine_tuning.jobs.list_events(job, limit=100))
    losses = [event.data for event in events if event.type == "metrics"]
    assert losses and all("step" in data for data in losses)  # type: ignore[operator]
    if method == "reinforcement":
        assert any("reward" in data for data in losses)  # type: ignore[operator]
