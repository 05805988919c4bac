"""Methods that change whole weights: how people name them, and what their first trial is."""

import pytest

from agents.trainer import explain, first_spec
from moatelier.contracts import TaskPlan
from tests.agents.scenes import DEFAULTS, planned, questions
from tests.agents.trials import card

OFFERED = DEFAULTS.model_copy(update={"methods": ("lora", "full", "hft")})


@pytest.mark.parametrize(
    ("sentence", "method"),
    [
        ("92%, full fine-tuning", "full"),
        ("fully trained, a full answer in full, 92%", "lora"),
        ("92%. Do full parameter fine-tuning please.", "full"),
        ("tune all the weights, 92%", "full"),
        ("tune it fully, 92%", "full"),
        ("half fine-tuning, 92%", "hft"),
        ("use HFT, 92%", "hft"),
        ("use lora, not full fine-tuning, 92%", "lora"),
        ("not lora but full fine-tuning, 92%", "full"),
        ("92%", "lora"),
    ],
)
def test_they_are_read_from_a_sentence(sentence: str, method: str) -> None:
    plan = planned(sentence, defaults=OFFERED)
    assert plan.method.value == method


def test_what_is_not_on_offer_is_asked_about() -> None:
    question = questions("half fine-tuning, 92%")["method"]
    assert question.field == "method" and '"half fine-tuning" is not available yet' in question.text
    question = questions("92%, not lora", defaults=OFFERED)["method"]
    assert question.choices == ("lora", "full", "hft")


@pytest.mark.parametrize("method", ["full", "hft"])
def test_whole_weights_are_moved_at_a_rate_of_their_own(method: str) -> None:
    base = planned("92%", defaults=OFFERED)
    plan = TaskPlan.model_validate(base.model_dump() | {"method": {**base.method.model_dump(), "value": method}})
    spec = first_spec(plan, card(100), seconds_left=1800, pace=900)
    assert (spec.method, spec.learning_rate, spec.rank, spec.layers) == (method, 3e-4, 1, "top_third")
    assert f"{method} on the top third" in explain(spec, card(100))
