"""Sentences that name a way to tune: it is chosen, not taken for another, and not read where a person is meant."""

import pytest

from agents.planner import plan
from agents.starts import STARTS, start
from agents.trainer import first_spec
from moatelier.contracts import TaskPlan
from modalities.text.config import TEXT
from tests.agents.scenes import DEFAULTS, SUPPORT
from tests.agents.trials import card
from training import methods

OFFERED = DEFAULTS.model_copy(update={"methods": TEXT.methods})


def asked_or_planned(sentence: str) -> TaskPlan | str:
    """The plan, or the question about the method."""
    found = plan([sentence], SUPPORT, None, train_file="file-train", test_file=None, defaults=OFFERED)
    return found if isinstance(found, TaskPlan) else next(one.text for one in found if one.field == "method")


@pytest.mark.parametrize(
    ("words", "method"),
    [
        ("with LoRA", "lora"),
        ("with aLoRA", "alora"),
        ("with an activated LoRA", "alora"),
        ("with DoRA", "dora"),
        ("use dora", "dora"),
        ("by the Dora method", "dora"),
        ("with rsLoRA", "rslora"),
        ("with rank-stabilised LoRA", "rslora"),
        ("use PiSSA", "pissa"),
        ("with AdaLoRA", "adalora"),
        ("with VeRA", "vera"),
        ("with IA3", "ia3"),
        ("with (IA)^3", "ia3"),
        ("with IA³", "ia3"),
        ("with LoRA-FA", "lora_fa"),
        ("with lora_fa", "lora_fa"),
        ("with DyLoRA", "dylora"),
        ("with QLoRA", "qlora"),
        ("with 4-bit LoRA", "qlora"),
        ("with DoRA, not LoRA", "dora"),
        ("with LoRA instead of DoRA", "lora"),
        ("without QLoRA, with IA3", "ia3"),
    ],
)
def test_a_sentence_chooses_its_method(words: str, method: str) -> None:
    chosen = asked_or_planned(f"Sort messages by intent, 92 %, {words}.")
    assert isinstance(chosen, TaskPlan) and (chosen.method.value, chosen.method.source) == (method, "user")


@pytest.mark.parametrize("words", ["", ", as Dora wants", ", ask Vera about it", ", via the portal"])
def test_nothing_is_read_into_other_words(words: str) -> None:
    chosen = asked_or_planned(f"Sort messages by intent, 92 %{words}.")
    assert isinstance(chosen, TaskPlan) and (chosen.method.value, chosen.method.source) == ("lora", "default")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("with LoRA or DoRA", "You named lora and dora"),
        ("without DoRA", "You do not want dora"),
        ("with prefix-tuning", "not available yet"),
        ("with GRPO and QLoRA", '"GRPO" is not available yet'),
    ],
)
def test_asks_where_a_method_is_unclear(words: str, told: str) -> None:
    question = asked_or_planned(f"Sort messages by intent, 92 %, {words}.")
    assert isinstance(question, str) and told in question


@pytest.mark.parametrize("method", TEXT.methods)
def test_every_method_on_offer_has_a_start_that_its_registry_agrees_with(method: str) -> None:
    usual, known = start(method), methods.get(method, "text")
    assert method in STARTS and usual.rank <= known.max_rank
    for name, value in known.defaults.items():
        assert getattr(usual, name) == value, name


def test_a_first_trial_has_the_rate_of_its_method() -> None:
    rates = {}
    for method in ("lora", "ia3"):
        chosen = asked_or_planned(f"Sort messages by intent, 92 %, with {method}.")
        assert isinstance(chosen, TaskPlan)
        rates[method] = first_spec(chosen, card(), seconds_left=1e4, pace=1e3).learning_rate
    assert rates["ia3"] == pytest.approx(50 * rates["lora"])


def test_what_is_registered_is_on_offer_but_for_what_needs_a_training_spec() -> None:
    assert set(methods.names("text")) - set(TEXT.methods) == {"lomo", "mezo", "reward_model", "grpo", "rloo"}
    assert set(TEXT.methods) < set(methods.names("text"))
