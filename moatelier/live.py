"""`moatelier rollout`, `lessons`, `retrain`, `alerts`, `monitors`: models in use, improving by themselves."""

import json
from typing import Annotated, Any

import typer

from moatelier.options import Json, service

rollout_app = typer.Typer(help="A challenger is tried beside an alias's champion.", no_args_is_help=True)
lessons_app = typer.Typer(help="What feedback teaches, once a person approves it.", no_args_is_help=True)
retrain_app = typer.Typer(help="Models are trained again on approved lessons.", no_args_is_help=True)
alerts_app = typer.Typer(help="What somebody should know.", no_args_is_help=True)
monitors_app = typer.Typer(help="What was measured of answers.", no_args_is_help=True)
Alias = Annotated[str, typer.Argument(help="The name that people ask by.")]
Which = Annotated[str, typer.Argument(help="An alias, or a rollout's id.")]
Share = Annotated[float, typer.Option("--share", help="Of those who ask, answered by the challenger.")]
Shadow = Annotated[int, typer.Option("--shadow", help="Requests that it first answers unseen.")]
Watch = Annotated[str, typer.Option("--watch", help="What promotes it: liked (feedback) or answered.")]
Margin = Annotated[float, typer.Option("--margin", help="Worse by less than this is as good: 0.1 is ten points.")]


def _list(path: str, columns: tuple[str, ...], as_json: bool, **params: Any) -> None:
    from moatelier.show import rows

    with service() as client:
        rows(client.call("GET", path, params=params)["data"], columns, as_json)


def _do(method: str, path: str, as_json: bool, words: str, **arguments: Any) -> None:
    """One call; its answer, or what it means with the answer's fields put in."""
    with service() as client:
        done = client.call(method, path, **arguments)
    typer.echo(json.dumps(done, ensure_ascii=False) if as_json else words.format(**done))


@rollout_app.command("start")
def start(
    alias: Alias,
    challenger: Annotated[str, typer.Argument(help="Model id, alias or digest of who might take its place.")],
    share: Share = 0.1,
    shadow: Shadow = 0,
    watch: Watch = "liked",
    margin: Margin = 0.1,
    days: Annotated[float, typer.Option("--days", help="Without a conclusion by then the champion stays.")] = 14.0,
    as_json: Json = False,
) -> None:
    """Try a challenger: it is promoted once shown not to be worse, and rolled back once shown to be."""
    plan = {"share": share, "shadow": shadow, "watch": watch, "margin": margin, "days": days}
    body = {"alias": alias, "challenger": challenger, "plan": plan}
    _do("POST", "/v1/rollouts", as_json, "{id} is in its {state}", json=body)


@rollout_app.command("list")
def list_rollouts(as_json: Json = False) -> None:
    """List the rollouts, newest first."""
    _list("/v1/rollouts", ("id", "alias", "state", "reason", "created_at"), as_json)


@rollout_app.command("show")
def show(which: Which, as_json: Json = False) -> None:
    """Show a rollout: its state, why, and what is known so far."""
    with service() as client:
        found = client.call("GET", f"/v1/rollouts/{which}")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    typer.echo(f"{found['id']} of {found['alias']}: {found['state']}. {found['reason']}")
    typer.echo(f"champion {found['champion'][:8]}, challenger {found['challenger'][:8]}")
    for one in (found["evidence"] or {}).get("compared", ()):
        bounds = f"{100 * one['lower']:+.1f} to {100 * one['upper']:+.1f}"
        counts = f"{one['challenger']} of the challenger, {one['champion']} of the champion"
        typer.echo(f"  {one['measure']}: {100 * one['gain']:+.1f} points ({bounds}; {counts})")


@rollout_app.command("stop")
def stop(which: Which, as_json: Json = False) -> None:
    """End a rollout; the champion stays."""
    _do("POST", f"/v1/rollouts/{which}/stop", as_json, "{id} is {state}: {reason}")


@rollout_app.command("promote")
def promote(which: Which, as_json: Json = False) -> None:
    """Give the challenger the alias now, whatever has been shown."""
    _do("POST", f"/v1/rollouts/{which}/promote", as_json, "{id} is {state}: {reason}")


@rollout_app.command("revert")
def revert(which: Which, as_json: Json = False) -> None:
    """Give the alias back to the champion that a promotion replaced."""
    _do("POST", f"/v1/rollouts/{which}/revert", as_json, "{id} is {state}: {reason}")


@lessons_app.command("list")
def list_lessons(
    alias: Annotated[str | None, typer.Argument(help="Of this alias only.")] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", help="pending, approved, rejected, contradictory, wordless or used."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what feedback teaches, redacted, newest first."""
    wanted = {name: value for name, value in {"alias": alias, "status": status}.items() if value is not None}
    _list("/v1/lessons", ("completion", "alias", "status", "body"), as_json, **wanted)


Completions = Annotated[list[str] | None, typer.Argument(help="Ids of the answers that they are about.")]
AllOf = Annotated[str | None, typer.Option("--all", help="All of this alias that are pending.")]


@lessons_app.command("approve")
def approve(completions: Completions = None, alias: AllOf = None, as_json: Json = False) -> None:
    """Approve lessons: they may be trained on."""
    body = {"completions": completions or [], "alias": alias}
    _do("POST", "/v1/lessons/approve", as_json, "{count} are approved", json=body)


@lessons_app.command("reject")
def reject(completions: Completions = None, alias: AllOf = None, as_json: Json = False) -> None:
    """Reject lessons: they are not trained on."""
    body = {"completions": completions or [], "alias": alias}
    _do("POST", "/v1/lessons/reject", as_json, "{count} are rejected", json=body)


@retrain_app.command("when")
def when(
    alias: Alias,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="As soon as so many lessons are approved.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help="Five fields: 0 3 * * 1")] = None,
    drift: Annotated[bool, typer.Option("--drift", help="When a monitor has found drift.")] = False,
    least: Annotated[int, typer.Option("--least", min=1, help="Lessons that schedule and drift need.")] = 20,
    rest_hours: Annotated[float, typer.Option("--rest-hours", help="Between two beginnings.")] = 24.0,
    share: Share = 0.1,
    shadow: Shadow = 0,
    watch: Watch = "liked",
    margin: Margin = 0.1,
    off: Annotated[bool, typer.Option("--off", help="Keep it, and begin nothing by it.")] = False,
    as_json: Json = False,
) -> None:
    """Say when an alias's model is trained again by itself, and how its successor is tried."""
    rollout = {"share": share, "shadow": shadow, "watch": watch, "margin": margin}
    plan = {"rows": rows, "schedule": schedule, "drift": drift, "least": least, "rest_hours": rest_hours}
    body = {"plan": plan | {"rollout": rollout}, "enabled": not off}
    _do("PUT", f"/v1/triggers/{alias}", as_json, "kept for {alias}", json=body)


@retrain_app.command("never")
def never(alias: Alias, as_json: Json = False) -> None:
    """Begin nothing more by itself."""
    _do("DELETE", f"/v1/triggers/{alias}", as_json, "{alias} is not trained again by itself")


@retrain_app.command("triggers")
def triggers(as_json: Json = False) -> None:
    """List what begins by itself."""
    _list("/v1/triggers", ("alias", "enabled", "next_at", "plan"), as_json)


@retrain_app.command("now")
def begin(alias: Alias, as_json: Json = False) -> None:
    """Train an alias's model again now, on the lessons that are approved."""
    _do("POST", "/v1/retrains", as_json, "{id} begins with {lessons} lessons", json={"alias": alias})


@retrain_app.command("list")
def list_retrains(as_json: Json = False) -> None:
    """List the retrains, newest first, with their tasks."""
    _list("/v1/retrains", ("id", "alias", "cause", "lessons", "status", "task", "created_at"), as_json)


@alerts_app.command("list")
def list_alerts(
    unseen: Annotated[bool, typer.Option("--unseen", help="Those that nobody has acknowledged.")] = False,
    as_json: Json = False,
) -> None:
    """List the alerts, newest first."""
    columns = ("id", "monitor", "model", "what", "delivery", "created_at")
    _list("/v1/alerts", columns, as_json, **({"unseen": True} if unseen else {}))


@alerts_app.command("seen")
def seen(alert: Annotated[str, typer.Argument(help="alert-...")], as_json: Json = False) -> None:
    """Acknowledge an alert."""
    _do("POST", f"/v1/alerts/{alert}/seen", as_json, "{id} was seen")


@monitors_app.command("list")
def list_monitors(as_json: Json = False) -> None:
    """List the models that are asked, with the numbers of their newest answers."""
    _list("/v1/monitors", ("model", "chosen", "learning", "found", "numbers"), as_json)


@monitors_app.command("reset")
def reset(model: Annotated[str, typer.Argument(help="Its name in requests.")], as_json: Json = False) -> None:
    """Take what comes from now on for what is usual."""
    _do("POST", f"/v1/monitors/{model}/reset", as_json, "{model} is learnt anew")
