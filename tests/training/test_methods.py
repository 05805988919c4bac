import subprocess
import sys

import pytest

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest, NotFound
from training import methods


def spec(**changes: object) -> TrainSpec:
    return TrainSpec.model_validate({"method": "lora", "base": "b", "dataset": "d", "suffix": "s", **changes})


def test_lora_is_registered_and_its_defaults_are_fields_of_the_spec() -> None:
    assert "lora" in methods.names()
    assert methods.get("lora").defaults.keys() <= TrainSpec.model_fields.keys()
    spec(**methods.get("lora").defaults)


def test_an_unknown_method_names_those_there_are() -> None:
    with pytest.raises(NotFound, match="Use one of alora, lora"):
        methods.load(spec(method="telepathy"))


def test_a_rank_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 256"):
        methods.load(spec(rank=257))


def test_a_second_method_of_the_same_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'lora' is registered twice"):
        methods.register(methods.get("lora"))


def test_an_implementation_offers_what_the_loop_needs() -> None:
    module = methods.load(spec())
    assert all(callable(getattr(module, name)) for name in ("attach", "weights", "restore", "config"))


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, training.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
