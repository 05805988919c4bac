import subprocess
import sys

import pytest

from moatelier.contracts import TrainSpec
from moatelier.errors import InvalidRequest, NotFound
from training import methods


def spec(**changes: object) -> TrainSpec:
    return TrainSpec.model_validate({"method": "lora", "base": "b", "dataset": "d", "suffix": "s", **changes})


EVERY = [(modality, name) for modality in ("text", "vision", "imagetext") for name in methods.names(modality)]


@pytest.mark.parametrize(("modality", "name"), EVERY)
def test_the_defaults_of_a_method_make_a_spec(modality: str, name: str) -> None:
    defaults = methods.get(name, modality).defaults
    assert defaults.keys() <= TrainSpec.model_fields.keys()
    spec(**defaults)


def test_a_method_of_another_modality_is_refused() -> None:
    with pytest.raises(NotFound, match="no method 'top_blocks' to tune text models"):
        methods.load(spec(method="top_blocks"), "text")


def test_an_unknown_method_names_those_there_are() -> None:
    with pytest.raises(NotFound, match="Use one of alora, "):
        methods.load(spec(method="telepathy"), "text")


def test_a_rank_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 256"):
        methods.load(spec(rank=257), "text")


def test_a_second_method_of_the_same_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'lora' is registered twice"):
        methods.register(methods.get("lora", "text"))


@pytest.mark.parametrize(("modality", "name"), EVERY)
def test_an_implementation_offers_what_the_loop_needs(modality: str, name: str) -> None:
    module = methods.load(spec(method=name), modality)
    assert all(callable(getattr(module, name)) for name in ("attach", "weights", "restore", "config"))


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, training.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
