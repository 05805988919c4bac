"""The typed records that pass between the parts. Frozen, JSON-able, unknown fields refused.

Order follows the main flow: profile -> plan -> dataset -> training -> evaluation -> routing -> serving and events.
Ids of files and artifacts are SHA-256 digests (64 hex digits) unless a field says otherwise.
"""

from moatelier.contracts.base import Contract, Kind, MetricName, SplitName, now
from moatelier.contracts.dataset import (
    CurationDecision,
    CurationReport,
    DataFindings,
    DatasetCard,
    PrivateFinding,
    SplitInfo,
    Suspicion,
)
from moatelier.contracts.evaluation import (
    Diagnosis,
    EvalReport,
    EvalSpec,
    Finding,
    GateDecision,
    GateSpec,
    Interval,
    PairedComparison,
)
from moatelier.contracts.mixture import (
    CandidatesResult,
    CandidatesSpec,
    MixtureDecision,
    MixtureLine,
    MixtureLook,
    MixtureResult,
    MixtureSpec,
    MixtureTable,
)
from moatelier.contracts.plan import Budget, Columns, Goal, Question, Sourced, TaskPlan
from moatelier.contracts.profile import ColumnGuess, ColumnProfile, DataProfile, RowProblem
from moatelier.contracts.routing import (
    BuiltProfile,
    Calibration,
    HeldOut,
    KnownProfile,
    ProfileSource,
    RouterCard,
    RouterEntry,
    RouterEvidence,
    RouterProfile,
    RoutingResult,
    RoutingSpec,
)
from moatelier.contracts.serving import Event, Feedback, RouteDecision
from moatelier.contracts.training import AdapterManifest, TrainResult, TrainSpec

__all__ = [
    "AdapterManifest",
    "Budget",
    "BuiltProfile",
    "Calibration",
    "CandidatesResult",
    "CandidatesSpec",
    "ColumnGuess",
    "ColumnProfile",
    "Columns",
    "Contract",
    "CurationDecision",
    "CurationReport",
    "DataFindings",
    "DataProfile",
    "DatasetCard",
    "Diagnosis",
    "EvalReport",
    "EvalSpec",
    "Event",
    "Feedback",
    "Finding",
    "GateDecision",
    "GateSpec",
    "Goal",
    "HeldOut",
    "Interval",
    "Kind",
    "KnownProfile",
    "MetricName",
    "MixtureDecision",
    "MixtureLine",
    "MixtureLook",
    "MixtureResult",
    "MixtureSpec",
    "MixtureTable",
    "PairedComparison",
    "PrivateFinding",
    "ProfileSource",
    "Question",
    "RouteDecision",
    "RouterCard",
    "RouterEntry",
    "RouterEvidence",
    "RouterProfile",
    "RoutingResult",
    "RoutingSpec",
    "RowProblem",
    "Sourced",
    "SplitInfo",
    "SplitName",
    "Suspicion",
    "TaskPlan",
    "TrainResult",
    "TrainSpec",
    "now",
]
