"""How a registered adapter enters the router: its profile, the card, and the agent's word on whether `auto` knows it.

The spec is written down when the adapter is registered, so that a node that runs again asks for the very same job. Its
records are signed once a run: an adapter that enters again has further ones, and the newest counts. No failure here
undoes the registration: an event says that routing is off, and why.
"""

import logging

from agents import router
from evals.rows import split_rows
from graphs.nodes import load, run_job, say
from graphs.state import LifecycleState
from moatelier.contracts import (
    BuiltProfile,
    EvalReport,
    GateDecision,
    KnownProfile,
    ProfileSource,
    RouterEntry,
    RouterEvidence,
    RoutingResult,
    RoutingSpec,
)
from moatelier.contracts.suites import Promotion
from moatelier.errors import DataError, IntegrityError, InvalidRequest, MoatelierError, ModelUnavailable, NotFound
from moatelier.faults import fault_point
from modalities import catalogue
from modalities.imagetext.config import NAME as SHOWN
from serving import roster
from serving.prompts import INTRODUCTION
from store import adapters, artifacts, datasets, records

BACKLOG = 8
"""Adapters whose profile is missing, or of another embedding model, and is made with this registration, at most."""
log = logging.getLogger("moatelier.worker")


def ask(state: LifecycleState, decision: GateDecision) -> str | None:
    """Write down what the routing job shall do; its digest, or None when that cannot be said."""
    try:
        return artifacts.put_json(spec(state["project"], decision))
    except Exception as error:  # the adapter is registered, whatever the router makes of it
        _off(state, error)
        return None


def spec(project: str, decision: GateDecision) -> RoutingSpec:
    """The candidate's profile, and those of earlier adapters that have none or one of another embedding model.

    Raises:
        NotFound, InvalidRequest: The setting names no embedding model, or `auto` has no use for such an adapter.
        IntegrityError: A record was changed.
    """
    entered = roster.entries(project)
    everyone = {record.digest: record for record in adapters.list_adapters(project)}
    modality = adapters.get(project, decision.candidate).manifest.modality
    if modality == SHOWN:
        raise InvalidRequest(
            "It answers questions about pictures, and `auto` chooses by a picture alone.",
            where=decision.candidate,
            remedy="Ask it by its name.",
        )
    # What was mixed has its parents' rows, and no gate has judged it: it would only make a twin of one of them.
    trained = {digest: record.manifest for digest, record in everyone.items() if record.manifest.mixing is None}
    alike = {digest for digest, manifest in trained.items() if manifest.modality == modality}
    others = [e for e in roster.on_roster(entered) if e.adapter not in (decision.candidate, decision.champion)]
    others = [entry for entry in others if entry.adapter in alike]
    known = [entry for entry in others if (made := roster.profile_of(entry)) and roster.comparable(made)]
    seen = {entry.adapter for entry in entered} | {decision.candidate}
    missing = [digest for digest in everyone if digest in alike - seen and everyone[digest].aliases]
    stale = [entry.adapter for entry in others if entry not in known]
    return RoutingSpec(
        candidate=decision.candidate,
        build=tuple(_source(project, digest) for digest in [decision.candidate, *(stale + missing)[:BACKLOG]]),
        known=tuple(KnownProfile(adapter=e.adapter, profile=e.profile, held_out=e.held_out) for e in known),
        embedding=catalogue.embedder(modality),
        modality=modality,
    )


def _source(project: str, digest: str) -> ProfileSource:
    dataset = adapters.get(project, digest).manifest.dataset
    reports = [r for r in records.list_records(project, digest) if r.kind == "eval_report" and r.body["split"] == "dev"]
    answers = EvalReport.model_validate(reports[-1].body).predictions if reports else None
    return ProfileSource(adapter=digest, dataset=dataset, answers=answers)


def enter(state: LifecycleState) -> None:
    """Run the job and carry out what the router decides; tell it when that cannot be."""
    if not state.get("routing"):
        return
    try:
        carry_out(state)
    except Exception as error:  # as above
        _off(state, error)


def _off(state: LifecycleState, error: Exception) -> None:
    if not isinstance(error, MoatelierError):
        log.error("%s could not be entered into the router", state["task"], exc_info=error)
        error = MoatelierError(f"{type(error).__name__}: {error}")
    say(state, "routing", phase="routing", status="off", **error.to_dict())


def carry_out(state: LifecycleState) -> None:
    """Run the job, sign what came of it and what the router agent makes of it.

    Raises:
        ModelUnavailable: The embedding model is not pulled.
        MoatelierError: What the job could not do.
    """
    asked, decision = load(state, "routing", RoutingSpec), load(state, "decision", GateDecision)
    if not catalogue.is_pulled(asked.embedding):  # said here, without a process that loads torch to find it out
        raise ModelUnavailable(
            "The embedding model is not pulled: `auto` does not know this adapter.",
            where=asked.embedding,
            remedy=f"Run `moatelier models pull {asked.embedding}`; the next registration enters this adapter too, "
            "or `moatelier adapters route NAME` does.",
        )
    _, result = run_job(state, "routing", asked.model_dump(mode="json"))
    found = RoutingResult.model_validate(result)
    records.sign(state["project"], "router_card", asked.candidate, _key(state, asked.candidate), found.card)
    fault_point("routing.before_join")
    for built in found.built:
        _decide(state, built, decision)
    card = found.card.model_dump(mode="json", exclude={"adapters"})
    say(state, "routing", phase="routing", status="on", card=card)


def _key(state: LifecycleState, adapter: str) -> str:
    return roster.record_key(adapter, state["run"])


def _decide(state: LifecycleState, built: BuiltProfile, decision: GateDecision) -> None:
    """Ask the agent about one adapter, sign its entry, and log the decision."""
    candidate = built.adapter == decision.candidate
    membership = router.join(_evidence(state["project"], built, decision if candidate else None))
    entry = RouterEntry(
        adapter=built.adapter, profile=built.profile, held_out=built.held_out, **membership.model_dump()
    )
    records.sign(state["project"], "router_profile", built.adapter, _key(state, built.adapter), entry)
    fault_point("routing.after_join")
    told = {"agent": "router", "decision": membership.model_dump(mode="json"), "reason": membership.reason}
    phase = "routing" if candidate else f"routing {built.adapter[:8]}"
    say(state, "decision", phase=phase, **told)


def _evidence(project: str, built: BuiltProfile, decision: GateDecision | None) -> RouterEvidence:
    """What the agent decides on: the profile, what the gate said of the adapter, and who has its place by now."""
    said = decision or gate_verdict(project, built.adapter)
    replaces = said.champion if said else None
    heirs = [e.adapter for e in roster.on_roster(roster.entries(project)) if e.replaces == built.adapter]
    successor = next((heir for heir in heirs if heir != replaces), None)
    manifest = adapters.get(project, built.adapter).manifest
    return RouterEvidence(
        built=built,
        promoted=bool(said and said.promoted),
        kind=manifest.kind,
        edits=_edits(manifest.dataset),
        replaces=replaces,
        successor=successor,
    )


def _edits(dataset: str) -> bool:
    """Whether a dataset's rows show others' answers, as those of a recipe's aggregator do."""
    try:
        first = split_rows(datasets.get_card(dataset), "train")[0]
    except (NotFound, IntegrityError, DataError):  # what is gone tells nothing
        return False
    return INTRODUCTION in str(first.prompt[-1]["content"])


def gate_verdict(project: str, adapter: str) -> GateDecision | None:
    """What the gate decided on an adapter last, and a person made of it; None when its record is gone."""
    try:
        verdict = GateDecision.model_validate(records.newest(project, "gate_decision", adapter).body)
    except NotFound:
        return None
    try:
        word = Promotion.model_validate(records.get(project, "promotion", verdict.task).body)
    except NotFound:  # nobody was asked
        return verdict
    return verdict.model_copy(update={"promoted": verdict.promoted and word.approved})
