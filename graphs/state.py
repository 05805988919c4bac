"""What the graphs remember between nodes: ids and short texts, never rows or weights.

Records such as a plan are artifacts; the state holds their digests, so a checkpoint stays small and JSON-able.
"""

from operator import add
from typing import Annotated, Any, TypedDict


class TaskState(TypedDict, total=False):
    """What every graph knows that carries out a task."""

    run: str
    """Id of the run whose input was taken last."""
    project: str
    task: str
    stream: str
    """The thread whose readers follow this task."""
    round: int
    """How often the person was asked something; makes each question's events distinct."""
    trials: Annotated[list[str], add]
    """Digests of finished trials in order."""
    legs: Annotated[list[str], add]
    """Of a search: digests of the legs that ran, in order."""
    outcome: str
    """Final status of the task."""
    error: dict[str, Any]


class LifecycleState(TaskState, total=False):
    """One task, from its request to a registered adapter. Digests name artifacts unless said otherwise."""

    messages: Annotated[list[str], add]
    """What the person said, the request first."""
    order: dict[str, Any]
    """Of a task that a program asked for: the Order that its plan is made of."""
    files: dict[str, str]
    """Uploaded files: {"train": id, "test": id}."""
    profile: str
    test_profile: str | None
    other_profiles: list[str]
    """Further looks at a training file that holds data of several kinds."""
    plan: str
    questions: list[dict[str, Any]]
    asked: Annotated[list[list[dict[str, Any]]], add]
    """The questions that each message but the first answers; empty where it answers none."""
    verdict: str
    """What the person said to the plan: approve, edit, stale, again (with a further message) or reject."""
    forecast: dict[str, Any]
    dataset: str
    spec: str
    usual: str
    """Of a search: the spec that its trials differ from."""
    pending: dict[str, Any]
    """The training result that is being evaluated."""
    stop: str
    """Why no further trial is made."""
    decision: str
    routing: str | None
    """The RoutingSpec: what the other adapters were when it was written down. None when there can be none."""
    rollout: str
    """Id of the rollout in which the candidate is tried before it takes the alias."""


class RecipeState(TaskState, total=False):
    """One measurement of a Mixture-of-Agents recipe, or the rows made for its aggregator."""

    job: str
    """`mixture` or `candidates`."""
    spec: dict[str, Any]
    """What the job is to do: a MixtureSpec or a CandidatesSpec as JSON."""
    measured: str
    """The job's result: the digest of an artifact."""
    result: dict[str, Any]


class EntryState(LifecycleState, total=False):
    """One adapter's entering the router because a person asked for it: no task's work. `stream` is its own thread."""

    adapter: str


class DerivationState(TaskState, total=False):
    """Something made of adapters because a person asked for it: no task's work. `stream` is its own thread."""

    job: str
    """`mix` or `export`."""
    spec: dict[str, Any]
    """What the job is to do: a MixSpec or an ExportSpec as JSON."""
    attempt: int
    """How often it has been tried before."""
    made: str
    """The job's result: the digest of an artifact."""


class GradingState(TypedDict, total=False):
    """One run of an eval: what it found is in the store, item by item."""

    run: str
    project: str
    stream: str
    eval_run: str
    error: dict[str, Any]


class ConversationState(TypedDict, total=False):
    """One conversation: what was said, and the task it is about."""

    run: str
    project: str
    thread: str
    messages: Annotated[list[dict[str, str]], add]
    taken: int
    """How many of the messages belong to tasks that were started."""
    files: dict[str, str]
    fresh_files: bool
    """The last run brought files of its own."""
    task: str | None
    asked: dict[str, Any] | None
    """The task's pending interrupt: {"id", "value"}."""
    answer: Any
