"""The typed records that pass between the parts. Frozen, JSON-able, unknown fields refused.

Order follows the main flow: profile -> plan -> dataset -> training -> evaluation -> routing -> recipes
and traces -> serving and events.
Ids of files and artifacts are SHA-256 digests (64 hex digits) unless a field says otherwise.
"""

from moatelier.contracts.base import CANDIDATES, Contract, Kind, MetricName, SplitName, now
from moatelier.contracts.columns import AnyColumns, AudioColumns, Columns, ImageColumns
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
from moatelier.contracts.images import ImageFindings, ImageProfile
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
from moatelier.contracts.plan import Budget, Goal, Question, Sourced, TaskPlan
from moatelier.contracts.profile import ColumnGuess, ColumnProfile, DataProfile, RowProblem
from moatelier.contracts.profiles import AnyProfile, read_profile
from moatelier.contracts.recipes import (
    Ensemble,
    Gate,
    Layer,
    Proposer,
    Recipe,
    RecipeState,
    Synthesis,
    Voice,
    read_recipe,
)
from moatelier.contracts.recordings import AudioFindings, AudioGoal, AudioProfile
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
from moatelier.contracts.traces import Extent, Proposal, Trace, Way
from moatelier.contracts.training import AdapterManifest, Setback, TrainResult, TrainSpec

__all__ = [
    "CANDIDATES",
    "AnyColumns",
    "AnyProfile",
    "AudioColumns",
    "AudioFindings",
    "AudioGoal",
    "AudioProfile",
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
    "Ensemble",
    "EvalReport",
    "EvalSpec",
    "Event",
    "Extent",
    "Feedback",
    "Finding",
    "Gate",
    "GateDecision",
    "GateSpec",
    "Goal",
    "HeldOut",
    "ImageColumns",
    "ImageFindings",
    "ImageProfile",
    "Interval",
    "Kind",
    "KnownProfile",
    "Layer",
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
    "Proposal",
    "Proposer",
    "Question",
    "Recipe",
    "RecipeState",
    "RouteDecision",
    "RouterCard",
    "RouterEntry",
    "RouterEvidence",
    "RouterProfile",
    "RoutingResult",
    "RoutingSpec",
    "RowProblem",
    "Setback",
    "Sourced",
    "SplitInfo",
    "SplitName",
    "Suspicion",
    "Synthesis",
    "TaskPlan",
    "Trace",
    "TrainResult",
    "TrainSpec",
    "Voice",
    "Way",
    "now",
    "read_profile",
    "read_recipe",
]
