"""The command line. All but `serve`, `models` and `doctor` speak HTTP to a service, or start one for the call.

Exit status: 0 done; 1 an error, told on standard error; 2 a question or an approval is open; 3 not reached.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from moatelier import __version__
from moatelier.access import keys_app, projects_app
from moatelier.errors import DataError, InvalidRequest, MoatelierError
from moatelier.live import alerts_app, lessons_app, monitors_app, retrain_app, rollout_app
from moatelier.moa import moa_app
from moatelier.options import NOT_REACHED, Json, Yes, service


class TaskGroup(TyperGroup):
    """`moatelier task "words"` is `moatelier task start "words"`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `start` before what is no subcommand."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args.insert(0, "start")
        return super().parse_args(ctx, args)


app = typer.Typer(help="Say what you want; get a tested, served adapter.", no_args_is_help=True)
task_app = typer.Typer(cls=TaskGroup, help='Start a task: task "what you want" --file F. Or look after one.')
adapters_app = typer.Typer(help="The adapters that tasks have made.", no_args_is_help=True)
app.add_typer(task_app, name="task")
app.add_typer(adapters_app, name="adapters")
app.add_typer(moa_app, name="moa")
app.add_typer(keys_app, name="keys")
app.add_typer(projects_app, name="projects")
app.add_typer(rollout_app, name="rollout")
app.add_typer(lessons_app, name="lessons")
app.add_typer(retrain_app, name="retrain")
app.add_typer(monitors_app, name="monitors")
app.add_typer(alerts_app, name="alerts")


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


# What a command needs beyond its words is imported when it runs, so that `--help` answers at once.


def _follow(client: Any, thread: str, stream: Iterator[Any], *, yes: bool, as_json: bool) -> None:
    from moatelier.journey import follow

    raise typer.Exit(follow(client, thread, stream, yes=yes, as_json=as_json))


@app.command()
def serve() -> None:
    """Serve until Ctrl-C: the API, the worker and the engine."""
    from moatelier.supervisor import serve as run

    run()


@task_app.command("start")
def task_start(
    words: Annotated[str, typer.Argument(help="What the adapter should do, in plain words.")],
    file: Annotated[
        Path,
        typer.Option("--file", "-f", help="CSV, JSONL, or a zip or folder of pictures or recordings."),
    ],
    test: Annotated[
        Path | None, typer.Option("--test", help="Locked rows to be tested on; else they are split off.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Start a task and follow it to its end."""
    from moatelier import streams

    with service() as client:
        files = {"train": client.upload(file)} | ({"test": client.upload(test)} if test else {})
        thread = client.call("POST", "/threads", json={})["thread_id"]
        said = {"messages": [{"role": "user", "content": words}], "files": files}
        stream = streams.run(client, thread, input=said)
        _follow(client, thread, stream, yes=yes, as_json=as_json)


@task_app.command("answer")
def task_answer(
    task: Annotated[str, typer.Argument(help="The task's id.")],
    words: Annotated[str, typer.Argument(help="The answer to its question; `yes` or `no` to its plan.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Answer what a task waits for, and follow it."""
    from moatelier.journey import resume

    with service() as client:
        thread = client.call("GET", f"/tasks/{task}")["conversation"]
        _follow(client, thread, resume(client, thread, words), yes=yes, as_json=as_json)


@task_app.command("list")
def task_list(as_json: Json = False) -> None:
    """List the tasks, newest first."""
    from moatelier.show import rows

    with service() as client:
        rows(client.call("GET", "/tasks")["data"], ("id", "status", "name", "request", "created_at"), as_json)


@task_app.command("show")
def task_show(task: str, as_json: Json = False) -> None:
    """Show one task: its plan, where it stands, how it ended."""
    from moatelier.show import task_page

    with service() as client:
        task_page(client.call("GET", f"/tasks/{task}"), as_json)


@task_app.command("cancel")
def task_cancel(task: str, as_json: Json = False) -> None:
    """End a task; what it has trained stays on disk."""
    with service() as client:
        ended = client.call("POST", f"/tasks/{task}/cancel")
        typer.echo(json.dumps(ended) if as_json else f"{task} is being cancelled")


@task_app.command("watch")
def task_watch(task: str, as_json: Json = False) -> None:
    """Follow a task from its first event to its end."""
    from moatelier import streams
    from moatelier.journey import recipe_task

    with service() as client:
        found = client.call("GET", f"/tasks/{task}")
        thread = found["conversation"]
        if thread == found["thread"]:  # a recipe's: it has no conversation, and asks nobody anything
            raise typer.Exit(0 if recipe_task(client, task, as_json)["status"] == "reached" else NOT_REACHED)
        _follow(client, thread, streams.watch(client, task, thread), yes=False, as_json=as_json)


@app.command()
def chat(
    words: Annotated[str | None, typer.Argument(help="One message; without it, a dialogue.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A model id, an alias, or a base.")] = "",
    as_json: Json = False,
) -> None:
    """Talk with an adapter or a base."""
    from moatelier.journey import dialogue

    with service() as client:
        dialogue(client, model, words, as_json)


@app.command()
def predict(
    model: Annotated[str, typer.Option("--model", "-m", help="A model id or an alias.")],
    words: Annotated[str | None, typer.Argument(help="One text.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A CSV; one answer a row.")] = None,
    column: Annotated[str | None, typer.Option("--column", help="The column to read; default: the first.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A CSV with an added column `prediction`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer one text, or every row of a CSV."""
    if (words is None) == (file is None):
        raise DataError("Give one text or one --file.", where="predict", remedy='moatelier predict -m NAME "some text"')
    if file and output and file.resolve() == output.resolve():
        raise DataError("The output is the file that is read.", where=str(output), remedy="Name another file.")
    from moatelier.predict import predict as answer
    from moatelier.predict import read_rows

    rows, source = read_rows(file, column) if file else ([{"text": str(words)}], "text")
    with service() as client:
        answer(client, model, rows, source, output, as_json)


@adapters_app.command("list")
def adapters_list(as_json: Json = False) -> None:
    """List the adapters, newest first."""
    from moatelier.show import rows

    with service() as client:
        rows(client.call("GET", "/adapters")["data"], ("model_id", "aliases", "base", "task", "created_at"), as_json)


@adapters_app.command("show")
def adapters_show(
    name: Annotated[str, typer.Argument(help="Model id, alias or digest.")], as_json: Json = False
) -> None:
    """Show one adapter with its manifest: as JSON with and without `--json`."""
    with service() as client:
        typer.echo(json.dumps(client.call("GET", f"/adapters/{name}"), indent=2, ensure_ascii=False))


@adapters_app.command("card")
def adapters_card(
    name: Annotated[str, typer.Argument(help="Model id, alias or digest.")], as_json: Json = False
) -> None:
    """Show how well `auto` recognises the adapters' domains: the card that this one's registration wrote."""
    from moatelier.show import router_card

    with service() as client:
        router_card(client.call("GET", f"/adapters/{name}/card"), as_json)


@adapters_app.command("route")
def adapters_route(
    name: Annotated[str, typer.Argument(help="Model id, alias or digest.")], as_json: Json = False
) -> None:
    """Enter an adapter into `auto` again: who stayed out, or joined by another embedding model, may fit now."""
    from moatelier.journey import enter_router

    with service() as client:
        enter_router(client, name, as_json)


@adapters_app.command("mix")
def adapters_mix(
    names: Annotated[list[str], typer.Argument(help="Model ids, aliases or digests of adapters of one base.")],
    name: Annotated[str, typer.Option("--name", help="What the mixed one is called.")],
    weights: Annotated[str, typer.Option("--weights", help="One number for each adapter: 0.5,0.5")],
    method: Annotated[str, typer.Option("--method", help="cat, linear, svd, ties, dare_ties, ...")] = "cat",
    density: Annotated[float | None, typer.Option("--density", help="Share that pruning leaves: 0.5, say.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of what svd leaves.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what DARE drops.")] = 0,
    as_json: Json = False,
) -> None:
    """Mix adapters into a new one, without training, and show what it retains of each task."""
    from moatelier import deriving

    wish: dict[str, Any] = {"adapters": names, "name": name, "method": method, "weights": deriving.weights_of(weights)}
    with service() as client:
        deriving.mix(client, wish | {"density": density, "rank": rank, "seed": seed}, as_json)


@adapters_app.command("export")
def adapters_export(
    name: str,
    format: Annotated[str, typer.Option("--format", help="bundle, peft, safetensors, gguf or onnx.")] = "bundle",
    numbers: Annotated[str | None, typer.Option("--numbers", help="Of GGUF: f32, f16 or q8_0.")] = None,
    to: Annotated[Path, typer.Option("--to", help="A zip to write, or a folder.")] = Path("adapter.zip"),
    as_json: Json = False,
) -> None:
    """Write an adapter's sealed bundle, or files for other programs once these answer as we do."""
    from moatelier import deriving

    with service() as client:
        deriving.export(client, name, format, numbers, to, as_json)


@app.command()
def feedback(
    completion: Annotated[str, typer.Argument(help="The answer's id, chatcmpl-...")],
    good: Annotated[bool | None, typer.Option("--good/--bad", help="What you think of it.")] = None,
    edit: Annotated[str | None, typer.Option("--edit", help="What it should have said.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The right category.")] = None,
    comment: Annotated[str | None, typer.Option("--comment", help="Anything else.")] = None,
    as_json: Json = False,
) -> None:
    """Say what you think of an answer; `auto` learns from it."""
    said: dict[str, Any] = {"completion": completion, "edit": edit, "label": label, "comment": comment}
    said |= {"rating": 1 if good else -1} if good is not None else {}
    with service() as client:
        kept = client.call("POST", "/v1/feedback", json=said)
    typer.echo(json.dumps(kept, ensure_ascii=False) if as_json else f"kept, on an answer of {kept['chosen']}")


@app.command("import-openai")
def import_openai(
    path: Annotated[Path, typer.Argument(help="A folder or a zip of files, jobs and evals as the API tells them.")],
    train: Annotated[
        str | None, typer.Option("--train", help="A base on which each job that succeeded is trained here too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take over what an OpenAI account had, and say what was taken and what not; again, it changes nothing."""
    from moatelier import importing

    with service() as client:
        importing.tell(importing.run(client, path, train=train), as_json)


@app.command()
def report(
    task: str,
    to: Annotated[Path | None, typer.Option("--to", help="Where to put the folder.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a task's report: index.html, report.json and MODEL_CARD.md."""
    from moatelier.journey import fetch_report

    with service() as client:
        page = str(fetch_report(client, task, to or Path(f"{task}-report")))
        typer.echo(json.dumps({"file": page}) if as_json else page)


@app.command("export-mlflow")
def export_mlflow(
    task: str,
    to: Annotated[str, typer.Option("--to", help="Where: sqlite:///FILE, or a tracking server's address.")],
    experiment: Annotated[str, typer.Option("--experiment", help="Its name there.")] = "moatelier",
    report: Annotated[bool, typer.Option(help="The report as well, which quotes rows.")] = True,
    as_json: Json = False,
) -> None:
    """Export an ended task as an MLflow run, its adapter as a version of a registered model."""
    from moatelier.mlflow_export import export

    with service() as client:
        export(client, task, to, experiment, report=report, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: Python, disk, memory, packs, ports, service."""
    from moatelier.doctor import examine

    raise typer.Exit(examine(as_json))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="The catalogue: models list | show ID | pull ID [--json]. Needs no service.",
)
def models(ctx: typer.Context) -> None:
    """Hand over to the catalogue, which is the layer above this one."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "modalities.pull", *ctx.args], check=False).returncode)


def _fail(error: MoatelierError) -> NoReturn:
    if "--json" in sys.argv:
        print(json.dumps({"error": error.to_dict()}), file=sys.stderr)
    else:
        print(f"error [{error.code}]: {error}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """The entry point: errors of ours become one line and exit status 1."""
    try:
        app()
    except MoatelierError as error:
        _fail(error)
    except OSError as error:
        _fail(InvalidRequest(f"{error.strerror or error}.", where=str(error.filename or ""), remedy="Check the path."))


if __name__ == "__main__":
    main()
