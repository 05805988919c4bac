"""A task as an MLflow run: plan as parameters, losses as metrics, report and adapter as artifacts, a model version.

    moatelier export-mlflow TASK --to sqlite:///mlflow.db

Each training of the task is a run below the task's. The client is the extra `mlflow`; what is sent goes to the place
that was named and nowhere else. The report goes too, which quotes rows; without it neither rows nor the sentence with
which a person asked leave. A task that was exported is not exported again.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from moatelier.client import Client
from moatelier.errors import Conflict, InvalidRequest, UpstreamError
from moatelier.journey import fetch_report

TASK, ADAPTER, JOB = "moatelier.task", "moatelier.adapter", "moatelier.job"
LONGEST = 500
"""Characters of a parameter that every tracking server takes."""
ENDED = ("reached", "not_reached", "rejected", "cancelled", "failed")
PAGE = 500


def export(client: Client, task: str, to: str, experiment: str, *, report: bool, as_json: bool) -> None:
    """Export a task that has ended, and tell the ids.

    Raises:
        NotFound: There is no such task.
        Conflict: It has not ended.
        InvalidRequest: The extra is not installed, or the place is none.
        UpstreamError: The tracking server failed.
    """
    found = client.call("GET", f"/tasks/{task}")
    if found["status"] not in ENDED:
        raise Conflict("The task has not ended.", where=task, remedy=f"Follow it: moatelier task watch {task}")
    mlflow = tracking()
    try:
        store = mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
        told = Export(store, client, found if report else {**found, "report": False}, experiment).carry()
    except mlflow.exceptions.MlflowException as error:
        remedy = "A file store is no longer taken by MLflow; use sqlite:///mlflow.db, or a tracking server's address."
        raise UpstreamError(f"MLflow refused: {str(error)[:300]}", where=to, remedy=remedy) from error
    if as_json:
        print(json.dumps(told))
        return
    version = f", version {told['version']} of {told['model']}" if told["version"] else ""
    typer.echo(f"{'exported before: ' if told['before'] else ''}run {told['run']}{version}")


def tracking() -> Any:
    """The package `mlflow`, which is told to send nobody a word about its use.

    Raises:
        InvalidRequest: It is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        return import_module("mlflow")
    except ImportError as error:
        remedy = "pip install 'moatelier[mlflow]'"
        raise InvalidRequest("MLflow's client is not installed.", where="mlflow", remedy=remedy) from error


class Export:
    """One task on its way to MLflow.

    Args:
        store: An `MlflowClient`.
        client: Our service.
        task: As the service tells it.
        experiment: Its name there; made when there is none.
    """

    def __init__(self, store: Any, client: Client, task: Mapping[str, Any], experiment: str) -> None:
        self._store, self._client, self._task = store, client, task
        known = store.get_experiment_by_name(experiment)
        self._experiment = known.experiment_id if known else store.create_experiment(experiment)

    def carry(self) -> dict[str, Any]:
        """Write everything down; what a broken export left unfinished is written anew. The ids."""
        for run in self._store.search_runs([self._experiment], f"tags.`{TASK}` = '{self._task['id']}'"):
            if run.info.status != "RUNNING" and JOB not in run.data.tags:
                return self._told(run.info.run_id, run.data.tags.get("moatelier.version", ""), before=True)
            if run.info.status == "RUNNING":
                self._store.delete_run(run.info.run_id)
        result = self._task["result"] or {}
        run = self._run(self._task["name"] or self._task["id"], {ADAPTER: str(result.get("adapter") or "")})
        for name, value in parameters(self._task["plan"] or {}).items():
            self._store.log_param(run, name, value)
        for name, number in numbers(result).items():
            self._store.log_metric(run, name, number)
        self._trainings(run)
        version = self._artifacts(run, result)
        self._store.set_tag(run, "moatelier.version", version)
        status = "FINISHED" if self._task["status"] in ("reached", "not_reached") else "FAILED"
        self._store.set_terminated(run, "KILLED" if self._task["status"] in ("cancelled", "rejected") else status)
        return self._told(run, version, before=False)

    def _told(self, run: str, version: str, *, before: bool) -> dict[str, Any]:
        return {"task": self._task["id"], "run": run, "model": self._model, "version": version, "before": before}

    @property
    def _model(self) -> str:
        return str(self._task["name"] or self._task["id"])

    def _run(self, name: str, tags: Mapping[str, str]) -> str:
        every = {TASK: self._task["id"], "moatelier.status": self._task["status"], **tags}
        return str(self._store.create_run(self._experiment, tags=every, run_name=name).info.run_id)

    def _trainings(self, parent: str) -> None:
        """The numbers of each training, by step."""
        runs: dict[str, str] = {}
        for event in self._events():
            body, job = event["body"], event["job"]
            if event["kind"] != "progress" or body.get("phase") != "train":
                continue
            if job not in runs:
                tags = {"mlflow.parentRunId": parent, JOB: job}
                runs[job] = self._run(f"training {len(runs) + 1}", tags)
            for name, value in numbers(body).items():
                if name not in ("step", "steps", "done"):
                    self._store.log_metric(runs[job], name, value, step=int(body.get("step", event["step"])))
        for run in runs.values():
            self._store.set_terminated(run)

    def _events(self) -> Iterator[dict[str, Any]]:
        after, more = 0, True
        while more:
            page = self._client.call("GET", f"/tasks/{self._task['id']}/events?after={after}&limit={PAGE}")
            yield from page["data"]
            more = page["has_more"]
            after = page["data"][-1]["id"] if page["data"] else after

    def _artifacts(self, run: str, result: Mapping[str, Any]) -> str:
        """The report, and the sealed adapter as a version of a registered model; the version, "" without any."""
        with tempfile.TemporaryDirectory() as place:
            if self._task["report"]:
                fetch_report(self._client, self._task["id"], Path(place) / "report")
                self._store.log_artifacts(run, str(Path(place) / "report"), "report")
            if not result.get("model"):
                return ""
            packed = io.BytesIO()
            self._client.download(f"/adapters/{result['adapter']}/export", packed)
            with zipfile.ZipFile(packed) as archive:
                for member in archive.infolist():
                    member.filename = member.filename.partition("/")[2]  # all lies in a folder of its own
                    archive.extract(member, Path(place) / "adapter")
            self._store.log_artifacts(run, str(Path(place) / "adapter"), "adapter")
        return self._register(run, result)

    def _register(self, run: str, result: Mapping[str, Any]) -> str:
        known = self._store.search_registered_models(f"name = '{self._model}'")
        if not known:
            self._store.create_registered_model(self._model)
        source = f"{self._store.get_run(run).info.artifact_uri}/adapter"
        tags = {ADAPTER: str(result["adapter"]), "moatelier.model": str(result["model"]), TASK: self._task["id"]}
        version = str(self._store.create_model_version(self._model, source, run, tags=tags).version)
        if result.get("promoted"):
            self._store.set_registered_model_alias(self._model, "champion", version)
        return version


def parameters(plan: Mapping[str, Any]) -> dict[str, str]:
    """The plan's values by name, without where they come from; what is nested is JSON."""
    found: dict[str, str] = {}
    for name, field in plan.items():
        value = field.get("value") if isinstance(field, Mapping) and "source" in field else field
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[name] = text[:LONGEST]
    return found


def numbers(body: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn."""
    return {name: float(value) for name, value in body.items() if isinstance(value, int | float)}
