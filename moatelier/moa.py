"""`moatelier moa`: recipes of the Mixture of Agents are added, evaluated, given an aggregator, and stopped.

Exit status: 0 done, or live after an evaluation; 1 an error; 3 evaluated, and not shown to be worth it.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from moatelier.errors import DataError, InvalidRequest
from moatelier.options import NOT_REACHED, Json, Yes, service

moa_app = typer.Typer(help="Recipes that ask several models and make one answer of theirs.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The recipe's name.")]
Rows = Annotated[int | None, typer.Option("--rows", min=1, help="At most so many rows; default: all.")]
Datasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", help="A task or an adapter whose rows are asked; default: those of the proposers."),
]


@moa_app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="The recipe, in YAML.")],
    as_json: Json = False,
) -> None:
    """Add a recipe, as a draft: it answers when an evaluation has shown that it is worth its calls."""
    if not file.is_file():
        raise DataError("There is no such file.", where=str(file), remedy="Check the path.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError("The file is not UTF-8.", where=str(file), remedy="Save it as UTF-8.") from error
    with service() as client:
        kept = client.call("POST", "/v1/moa", json={"yaml": text})
    name = kept["name"]
    typer.echo(
        json.dumps(kept) if as_json else f"{name} is {kept['state']}; evaluate it: moatelier moa evaluate {name}"
    )


@moa_app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes: whether they answer, and what they were measured to gain."""
    from moatelier.show import rows

    with service() as client:
        rows(client.call("GET", "/v1/moa")["data"], ("name", "state", "reason", "updated_at"), as_json)


@moa_app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show one recipe: its YAML, its state, and the table of its last evaluation."""
    from moatelier.show import recipe_page

    with service() as client:
        recipe = client.call("GET", f"/v1/moa/{name}")
        signed = client.call("GET", f"/v1/moa/{name}/decision")["body"] if recipe["record"] else None
        recipe_page({**recipe, "decision": signed}, as_json)


@moa_app.command("evaluate")
def evaluate(
    name: Name,
    rows: Rows = None,
    dataset: Datasets = None,
    select: Annotated[
        bool, typer.Option("--select", help="On select rows: costs no look at locked rows, and decides nothing.")
    ] = False,
    exam: Annotated[
        Path | None,
        typer.Option("--exam", help="A table of questions and answers, or a folder or zip of one with its media."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a recipe on held-out rows; it goes live if its gain over routing to one is shown, else off."""
    from moatelier.journey import recipe_task

    asked = {"rows": rows, "datasets": dataset or [], "split": "select" if select else "test"}
    if exam and dataset:
        raise InvalidRequest(
            "An exam and datasets are named.", where="--exam", remedy="Evaluate on one, then the other."
        )
    with service() as client:
        asked |= {"exam": client.upload(exam)} if exam else {}
        task = client.call("POST", f"/v1/moa/{name}/evaluations", json=asked)
        ended = recipe_task(client, task["id"], as_json)
    raise typer.Exit(0 if ended["status"] == "reached" else NOT_REACHED)


@moa_app.command("train-aggregator")
def train_aggregator(
    name: Name,
    goal: Annotated[str, typer.Option("--goal", help="What the aggregator has to reach on its own locked rows.")] = (
        "at least 50% exact match"
    ),
    rows: Rows = None,
    dataset: Datasets = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Train an adapter that makes one answer of the proposers': rows from dev rows, then an ordinary task."""
    from moatelier import streams
    from moatelier.journey import follow, recipe_task

    with service() as client:
        asked = {"rows": rows, "datasets": dataset or []}
        task = client.call("POST", f"/v1/moa/{name}/candidates", json=asked)
        made = recipe_task(client, task["id"], as_json)
        if not as_json:
            typer.echo(f"{made['rows']} rows; on {made['solvable']:.1%} of them some proposal is right")
        thread = client.call("POST", "/threads", json={})["thread_id"]
        words = f"Train a chat model, {goal}, group rows by group, call it {name}-aggregator."
        said = {"messages": [{"role": "user", "content": words}], "files": {"train": made["file"]}}
        stream = streams.run(client, thread, input=said)
        status = follow(client, thread, stream, yes=yes, as_json=as_json)
    raise typer.Exit(status)


@moa_app.command("disable")
def disable(name: Name, as_json: Json = False) -> None:
    """Stop a recipe: it answers no more until a new evaluation has shown its worth."""
    with service() as client:
        kept = client.call("POST", f"/v1/moa/{name}/disable", json={})
    typer.echo(json.dumps(kept) if as_json else f"{name} is {kept['state']}")
