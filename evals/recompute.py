"""Make a gate's decision again from the store, and say whether it is the one that was signed.

    python -m evals.recompute --task task-...

The record's signature is verified, then its evidence is read from the vault, and from that the decision is made anew by
the very function that made it. Exit status: 0 the same, 1 another, 2 it cannot be made again.
"""

import argparse
import json
import sys
from typing import Any

from evals import vault
from evals.deciding import GateEvidence, decided
from moatelier.errors import IntegrityError, MoatelierError, NotFound
from moatelier.ids import canonical_json
from moatelier.settings import settings
from store import datasets, records


def recompute(project: str, task: str) -> dict[str, Any]:
    """The signed decision and the one made again.

    Returns:
        `same`, the `fields` that differ, the record's `digest`, `signer` and `evidence`, whether it `promoted`, and its
        `reason`.

    Raises:
        NotFound: There is no such decision, or its evidence is gone.
        IntegrityError: Record or evidence were changed, or the record does not fit its evidence.
    """
    record = records.get(project, "gate_decision", task)
    digest = record.body.get("evidence")
    if not digest:
        raise NotFound(
            "The decision was signed before evidence was kept; it cannot be made again.",
            where=task,
            remedy="Its signature is good. Run the task again for a decision with evidence.",
        )
    evidence = GateEvidence.model_validate_json(vault.kept(digest))
    if (evidence.gate.task, evidence.gate.candidate) != (task, record.subject):
        raise IntegrityError("The evidence is of another decision.", where=digest)
    again = decided(evidence, datasets.get_card(evidence.gate.dataset)).model_dump(mode="json")
    fields = [
        name
        for name in sorted(again.keys() | record.body.keys())
        if canonical_json(again.get(name)) != canonical_json(record.body.get(name))
    ]
    told = {"task": task, "same": not fields, "fields": fields, "digest": record.digest, "signer": record.signer}
    return told | {"evidence": digest, "promoted": record.body["promoted"], "reason": record.body["reason"]}


def main(arguments: list[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Make a gate's decision again from the store.")
    parser.add_argument("--task", required=True)
    parser.add_argument("--project", default=None)
    asked = parser.parse_args(arguments)
    try:
        told = recompute(asked.project or settings().project, asked.task)
    except MoatelierError as error:
        print(json.dumps({"task": asked.task, "same": None, "error": error.to_dict()}))
        return 2
    print(json.dumps(told, ensure_ascii=False))
    return 0 if told["same"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
