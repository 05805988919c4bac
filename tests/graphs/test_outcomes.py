"""One row of a recipe's table: who is asked alone, who need not be, and what is missing."""

import asyncio
from typing import Any

from evals.held_out import Question
from evals.mixture import Given, table
from graphs.outcomes import NOT_ASKED, Panel, outcome, places, singles
from moatelier.contracts import Proposal, Recipe, Trace, Voice
from moatelier.errors import UpstreamError

QUESTION = Question("r1", "g1", ({"role": "user", "content": "where?"},), "parcel", 4)


def label(voice: Voice) -> str:
    return voice.adapter or (f"{voice.upstream}/{voice.model}" if voice.upstream else "base")


def recipe(*proposers: dict[str, Any], more: list[dict[str, Any]] | None = None, **fields: Any) -> Recipe:
    layers = [{"proposers": list(proposers)}, *([{"proposers": more}] if more else [])]
    return Recipe.model_validate({"name": "panel", "layers": layers, "aggregator": {"kind": "vote"}, **fields})


class Models:
    """Answers `<label>!` alone, and proposes `<label>` in a recipe; `late` places of the recipe come to nothing."""

    def __init__(self, made: Recipe, *, extent: str = "full", late: tuple[int, ...] = (), router: str = "") -> None:
        self.made, self.extent, self.late, self.router = made, extent, late, router
        self.asked: list[str] = []
        self.fails = False

    @property
    def routes(self) -> bool:
        return bool(self.router)

    async def recipe(self, question: Question) -> Trace:
        if self.fails:
            raise UpstreamError("nobody is there")
        given = [
            Proposal(
                layer=0,
                place=place,
                model=name,
                text="" if place in self.late else name,
                error="deadline" if place in self.late else "",
                prompt_tokens=3,
                completion_tokens=1,
                milliseconds=500,
            )
            for place, name in enumerate(places(self.made, label))
        ]
        shown = given if self.extent == "full" else given[:1]
        fields = {"name": "panel", "recipe": "d" * 64, "extent": self.extent, "way": "vote", "finish_reason": "stop"}
        return Trace.model_validate(
            {**fields, "proposals": shown, "text": "parcel", "answered_by": "a", "milliseconds": 900}
        )

    async def alone(self, voice: Voice, question: Question) -> Given:
        self.asked.append(label(voice))
        assert voice.temperature == 0
        return Given(f"{label(voice)}!", 4, 0.25)

    async def routed(self, question: Question) -> Voice:
        return Voice(base=True, temperature=0) if self.router == "base" else Voice(adapter=self.router, temperature=0)


def ask(models: Models) -> dict[str, Any]:
    return asyncio.run(Panel(models.made, models, label).ask(QUESTION))


def texts(answered: dict[str, Any], field: str) -> dict[str, str]:
    return {name: one["error"] or one["text"] for name, one in answered[field]}


def test_a_greedy_proposal_is_its_models_answer_alone() -> None:
    models = Models(recipe({"adapter": "a"}, {"adapter": "b"}, {"base": True}), router="b")
    answered = ask(models)
    assert models.asked == [], "nobody is asked twice"
    assert texts(answered, "singles") == texts(answered, "proposals") == {"a": "a", "b": "b", "base": "base"}
    assert answered["routed"]["text"] == "b" and answered["recipe"] == {
        "text": "parcel",
        "tokens": 12,
        "seconds": 0.9,
        "error": "",
    }
    made = outcome(QUESTION, answered)
    assert made.truth == "parcel" and table([made]).recipe.right.point == 1.0


def test_samples_are_proposals_and_their_model_is_asked_alone() -> None:
    models = Models(recipe({"base": True, "samples": 3, "temperature": 0.8}))
    answered = ask(models)
    assert texts(answered, "singles") == {"base": "base!"} and models.asked == ["base"]
    assert [name for name, _ in answered["proposals"]] == ["base 1", "base 2", "base 3"] and answered["routed"] is None


def test_who_came_too_late_in_the_recipe_is_asked_alone_and_missing_among_the_proposals() -> None:
    models = Models(recipe({"adapter": "a"}, {"adapter": "b"}), late=(1,))
    answered = ask(models)
    assert texts(answered, "singles") == {"a": "a", "b": "b!"}
    assert texts(answered, "proposals") == {"a": "a", "b": "deadline"}


def test_where_the_gate_let_one_answer_the_others_are_asked_alone() -> None:
    models = Models(recipe({"adapter": "a"}, {"auto": 2}, {"adapter": "b"}), extent="one", router="a")
    answered = ask(models)
    assert texts(answered, "singles") == {"a": "a!", "b": "b!"} and sorted(models.asked) == ["a", "b"]
    assert texts(answered, "proposals") == {"a": "a!", "auto 1": NOT_ASKED, "auto 2": NOT_ASKED, "b": "b!"}


def test_models_of_later_layers_are_singles_too() -> None:
    made = recipe({"adapter": "a"}, {"adapter": "a", "temperature": 0.5}, more=[{"adapter": "c"}, {"adapter": "a"}])
    assert list(places(made, label)) == ["a", "a again"] and list(singles(made, label)) == ["a", "c"]
    assert texts(ask(Models(made)), "singles") == {"a": "a", "c": "c!"}


def test_the_router_may_choose_who_is_not_in_the_recipe() -> None:
    models = Models(recipe({"adapter": "a"}, {"adapter": "b"}), router="z")
    assert ask(models)["routed"]["text"] == "z!" and models.asked == ["z"]
    assert ask(Models(models.made, router="base"))["routed"]["text"] == "base!"


def test_a_recipe_of_recipes_is_compared_with_its_proposals() -> None:
    models = Models(recipe({"recipe": "one@" + "a" * 64}, {"recipe": "two@" + "b" * 64}))
    answered = ask(models)
    assert texts(answered, "singles") == texts(answered, "proposals") == {"one": "one", "two": "two"}


def test_a_recipe_that_fails_is_told_and_the_others_are_asked_alone() -> None:
    models = Models(recipe({"adapter": "a"}, {"adapter": "b"}))
    models.fails = True
    answered = ask(models)
    assert answered["recipe"]["error"] == "upstream_error" and texts(answered, "singles") == {"a": "a!", "b": "b!"}


def test_a_router_that_fails_is_a_wrong_answer_not_the_end() -> None:
    models = Models(recipe({"adapter": "a"}, {"adapter": "b"}), router="a")

    async def gone(question: Question) -> Voice:
        raise UpstreamError("no embedding")

    models.routed = gone  # type: ignore[method-assign]
    assert ask(models)["routed"]["error"] == "upstream_error"
