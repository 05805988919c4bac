"""`moatelier keys` and `moatelier projects`: who may come in, to what, and how much of it."""

import json
from typing import Annotated, Any

import typer

from moatelier.options import Json, service

keys_app = typer.Typer(help="API keys of the project.", no_args_is_help=True)
projects_app = typer.Typer(help="Projects, whose data and models are kept apart.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="The key's id, key-...")]


def _told(made: dict[str, Any], as_json: bool) -> None:
    """Show a key's secret this once, on a line of its own so that a script can take it."""
    if as_json:
        typer.echo(json.dumps(made))
        return
    typer.echo(f"{made['id']} of {made['project']} may {', '.join(made['scopes'])}. Its secret is not shown again:")
    typer.echo(made["secret"])


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scopes: Annotated[str, typer.Option("--scopes", help="Some of infer,train,read,admin.")] = "infer,read",
    expires_days: Annotated[float | None, typer.Option("--expires-days", help="When it ends; default: never.")] = None,
    requests: Annotated[int | None, typer.Option("--requests-per-minute", help="Default: the setting's.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens-per-minute", help="Default: the setting's.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="Default: the project of your own key.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key, and show its secret."""
    wanted = {"name": name, "scopes": [scope.strip() for scope in scopes.split(",")], "project": project}
    limits = {"expires_days": expires_days, "requests_per_minute": requests, "tokens_per_minute": tokens}
    with service() as client:
        _told(client.call("POST", "/v1/admin/keys", json=wanted | limits), as_json)


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the keys, those that have ended included."""
    with service() as client:
        found = client.call("GET", "/v1/admin/keys")["data"]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for key in found:
        ended = "" if key["live"] else "  (ended)"
        typer.echo(f"{key['id']}  {key['name']}  {','.join(key['scopes'])}{ended}")


@keys_app.command("revoke")
def revoke(key: Id, as_json: Json = False) -> None:
    """End a key now, and every stream that is open by it."""
    with service() as client:
        ended = client.call("DELETE", f"/v1/admin/keys/{key}")
    typer.echo(json.dumps(ended) if as_json else f"{key} is revoked")


@keys_app.command("rotate")
def rotate(
    key: Id,
    grace_s: Annotated[float, typer.Option("--grace-s", help="Seconds the old secret is good besides.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Give a key a new secret, and show it; its id, scopes and limits stay."""
    with service() as client:
        _told(client.call("POST", f"/v1/admin/keys/{key}/rotate", json={"grace_s": grace_s}), as_json)


@projects_app.command("create")
def create_project(
    id: Annotated[str, typer.Argument(help="1-63 of a-z, 0-9, - and _.")],
    storage_gb: Annotated[float | None, typer.Option("--storage-gb", help="Default: the setting's.")] = None,
    training_hours: Annotated[float | None, typer.Option("--training-hours", help="In 30 days.")] = None,
    as_json: Json = False,
) -> None:
    """Make a project, and show the secret of its first key, an admin's."""
    wanted = {"id": id, "storage_gb": storage_gb, "training_hours": training_hours}
    with service() as client:
        made = client.call("POST", "/v1/admin/projects", json=wanted)
    if as_json:
        typer.echo(json.dumps(made))
    else:
        _told(made["key"], as_json=False)


@projects_app.command("list")
def list_projects(as_json: Json = False) -> None:
    """List the projects."""
    with service() as client:
        found = client.call("GET", "/v1/admin/projects")["data"]
    typer.echo(json.dumps(found) if as_json else "\n".join(project["id"] for project in found))
