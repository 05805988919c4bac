"""Mixing and exporting on a real service: whoever is killed, each is done once, signed once, and whole."""

import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from modalities.bundle import read_manifest
from store import adapters
from tests.e2e.harness import Service, prepared, wait_for
from tests.graphs.planted import dataset
from tests.serving.conftest import seal_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FAULTS = ("mix.enqueued", "mix.sealing", "export.enqueued", "export.publishing")


def ended(service: Service, path: str) -> dict[str, Any]:
    def done() -> Any:
        told = service.call("GET", path)
        return told if told["status"] not in ("pending", "running") else None

    return dict(wait_for(f"the end of {path}", done, 240))


def test_killed_at_every_stage_they_end_as_undisturbed(tmp_path: Path) -> None:
    service = Service(tmp_path, MOATELIER_PRECISION="fp32", MOATELIER_FAULT=",".join(FAULTS))
    with prepared(service):
        made_of = dataset(test=24)
        for seed in (1, 2):
            bundle = seal_adapter("tiny", tmp_path, f"task{seed}", seed=seed, dataset=made_of)
            adapters.register("default", read_manifest(bundle), f"task-{seed}")
        with service:
            names = [adapter["id"] for adapter in service.call("GET", "/adapters")["data"]]
            wish = {"adapters": names, "weights": [0.5, 0.5], "name": "both"}
            run = service.call("POST", "/adapters/mix", json=wish)["run"]
            for fault, victim in zip(FAULTS[:2], ("worker", "job"), strict=True):
                service.kill_at(fault, victim)
            mixed = ended(service, f"/adapters/mix/{run}")
            assert mixed["status"] == "success", mixed
            assert service.call("POST", "/adapters/mix", json=wish) == mixed
            # These adapters are noise: what is rounded answers differently after some tokens, and is refused.
            asked = service.call("POST", "/adapters/both/export", json={"format": "safetensors"})
            for fault, victim in zip(FAULTS[2:], ("worker", "job"), strict=True):
                service.kill_at(fault, victim)
            told = ended(service, f"/adapters/both/export/{asked['run']}")
            assert told["status"] == "success" and told["result"]["equal_answers"] == told["result"]["prompts"], told
            kinds = [record["kind"] for record in service.call("GET", "/adapters/both")["records"]]
            assert sorted(kinds) == ["parity", "retention"]
            key = (service.home / "keys" / "admin.key").read_text().strip()
            files = f"{service.url}/adapters/both/export/{asked['run']}/files"
            packed = httpx.get(files, headers={"Authorization": f"Bearer {key}"}, timeout=30)
            names = zipfile.ZipFile(io.BytesIO(packed.content)).namelist()
            assert {"model.safetensors", "parity.json"} <= {name.partition("/")[2] for name in names}
            assert not [left for left in (service.home / "exports").iterdir() if left.name.startswith(".draft")]
