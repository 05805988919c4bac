"""What a person has made of adapters that are there: a mixed one, or files for other programs.

    make -> keep

The job makes it, and the node after it registers and signs. The same wish is the same run, whoever wishes it again;
one that failed is tried anew.
"""

from functools import cache
from typing import Any, Literal

from langgraph.graph import END, START, StateGraph

from graphs import jobs
from graphs.checkpoint import prune, saver
from graphs.state import DerivationState
from moatelier.contracts import Contract, ExportSpec, MixSpec, Parity, Retention
from moatelier.errors import Conflict, InvalidRequest, MoatelierError, NotFound
from moatelier.ids import digest_json, slug
from modalities import bundle
from modalities.exported import export_folder, read_export
from store import adapters, artifacts, records, tasks

Job = Literal["mix", "export"]
FENCE = 1
"""Of the alias of a mixed adapter: set once, and any later decision of a task moves it."""


def mix(project: str, spec: MixSpec) -> tasks.Run:
    """Have adapters mixed; the suffix is also the new one's alias.

    Raises:
        InvalidRequest: This can be no name.
        Conflict: The name belongs to another adapter.
    """
    _need_free(project, spec)
    return _submitted(_start(project, "mix", spec))


def export(project: str, spec: ExportSpec) -> tasks.Run:
    """Have an adapter's files written for other programs; again if they were deleted or changed since."""
    run = _start(project, "export", spec)
    if run.status == "success":
        try:
            read_export(export_folder(spec))
        except MoatelierError:  # whatever is wrong with them, they are made again
            run = _start(project, "export", spec, anew=True)
    return _submitted(run)


def made(run: tasks.Run) -> dict[str, Any] | None:
    """The `Retention` or `Parity` of a run that has succeeded, as JSON."""
    digest = tasks.find_thread(run.thread).values.get("made") if run.status == "success" else None
    return dict(artifacts.get_json(digest)) if digest else None


def _start(project: str, job: Job, spec: Contract, *, anew: bool = False) -> tasks.Run:
    """The run of a wish: the one there is, or a new one where there is none or the last one failed."""
    wish = {"job": job, "spec": spec.model_dump(mode="json")}
    thread = tasks.create_thread(project, id=f"derive-{digest_json([project, wish])[:24]}", graph="derivation")
    runs = tasks.list_runs(project, thread.id, limit=1000)
    if runs and runs[0].status != "error" and not (anew and runs[0].ended):
        return runs[0]
    name = f"run-{thread.id}-{len(runs)}"
    return tasks.create_run(project, id=name, thread=thread.id, input=wish | {"attempt": len(runs)})


def _submitted(run: tasks.Run) -> tasks.Run:
    if not run.ended:
        jobs.submit_or_leave(run)
    return run


def _need_free(project: str, spec: MixSpec) -> None:
    name = spec.suffix
    if name == "auto" or slug(name) != name:
        remedy = "Use up to 32 lower-case letters, digits and dashes; not `auto`."
        raise InvalidRequest("This cannot be the name of an adapter.", where="name", remedy=remedy)
    there = adapters.alias_of(project, name)
    if there and adapters.get(project, there[0]).manifest.mixing != spec.mixing:
        remedy = "Give the mixed one another name."
        raise Conflict(f"`{name}` already names another adapter.", where="name", remedy=remedy)


def first_input(run: tasks.Run, thread: tasks.Thread) -> dict[str, Any]:
    """The graph's input for a run."""
    return {"run": run.id, "project": run.project, "stream": thread.id, **(run.input or {})}


def make(state: DerivationState) -> DerivationState:
    """Run the job."""
    _, result = jobs.run_job(
        state["job"],
        state["spec"],
        project=state["project"],
        stream=state["stream"],
        task=None,
        thread=state["stream"],
        attempt=state["attempt"],
    )
    return {"made": artifacts.put_json(result)}


def keep(state: DerivationState) -> DerivationState:
    """Register what was mixed, and sign what was found; a repeat changes nothing."""
    result = artifacts.get_json(state["made"])
    if state["job"] == "mix":
        _keep_mixed(state, Retention.model_validate(result))
    else:
        parity = Parity.model_validate(result)
        records.sign(state["project"], "parity", parity.adapter, state["run"], parity)
    prune(state["stream"])
    return {}


def _keep_mixed(state: DerivationState, retention: Retention) -> None:
    project, digest = state["project"], retention.adapter
    manifest = bundle.read_manifest(adapters.bundle_path(digest))
    adapters.register(project, manifest, state["stream"])
    adapters.set_alias(project, manifest.suffix, digest, fence=FENCE, actor=state["stream"])
    records.sign(project, "retention", digest, state["run"], retention)


def of_adapter(project: str, run_id: str, job: Job, digest: str | None = None) -> tasks.Run:
    """The run of a wish.

    Raises:
        NotFound: There is none, or it is about another adapter.
    """
    run = tasks.find_run(run_id)
    told = run.input or {}
    spec = told.get("spec") or {}
    if run.project != project or told.get("job") != job or digest not in (None, spec.get("bundle")):
        raise NotFound(f"There is no such {job}.", where=run_id, remedy="Ask for it again; what is done is not redone.")
    return run


@cache
def build() -> Any:
    """The compiled graph on this process's checkpointer."""
    graph = StateGraph(DerivationState)
    graph.add_node("make", make)
    graph.add_node("keep", keep)
    graph.add_edge(START, "make")
    graph.add_edge("make", "keep")
    graph.add_edge("keep", END)
    return graph.compile(checkpointer=saver())
