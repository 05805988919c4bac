"""How a task looks on a terminal: its plan, its progress, its questions, its end."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

console = Console(highlight=False)
SHOWN = ("kind", "columns", "goal", "budget", "method", "search", "base", "private", "too_long", "modality")


class Teller:
    """Prints a task's events as they come; with `as_json`, one JSON line each."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._bar: Progress | None = None
        self._phases: dict[str, TaskID] = {}

    def __enter__(self) -> "Teller":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()

    def tell(self, kind: str, step: int, body: dict[str, Any]) -> None:
        """One event."""
        if self.as_json:
            print(json.dumps({"kind": kind, "step": step, **body}, ensure_ascii=False), flush=True)
            return
        if kind == "progress":
            self._progress(body.get("done", step), body)
            return
        method = {
            "message": self._message,
            "status": self._status,
            "profile": self._profile,
            "decision": self._decision,
            "routing": self._routing,
            "table": self._table,
            "recipe": self._recipe,
            "error": self._error,
        }.get(kind)
        if method:
            self._stop_bar()
            method(body)

    def _message(self, body: dict[str, Any]) -> None:
        if body.get("role") != "user":
            console.print(escape(body["content"]))

    def _status(self, body: dict[str, Any]) -> None:
        console.print(f"[bold cyan]{escape(body['status'].replace('_', ' '))}[/]")

    def _profile(self, body: dict[str, Any]) -> None:
        profile = body["profile"]
        if "columns" not in profile or not isinstance(profile["columns"], list):
            console.print(escape(f"  {_media(profile)}"))
            return
        columns = ", ".join(column["name"] for column in profile["columns"])
        text = f"  {profile['name']}: {profile['rows']} rows, columns {columns}; {profile['exact_duplicates']} repeats"
        console.print(escape(text))

    def _decision(self, body: dict[str, Any]) -> None:
        if body["reason"]:
            console.print(f"  [dim]{escape(body['agent'])}:[/] {escape(body['reason'])}")

    def _routing(self, body: dict[str, Any]) -> None:
        if body["status"] == "off":
            told = " ".join(str(body[key]) for key in ("what", "remedy") if body.get(key))
            console.print(f"  [yellow]routing is off for this adapter:[/] {escape(told)}")

    def _table(self, body: dict[str, Any]) -> None:
        mixture_table(body["recipe"], body["table"], body["looks"])

    def _recipe(self, body: dict[str, Any]) -> None:
        console.print(f"[bold]{escape(body['recipe'])} is {escape(body['state'])}[/] {escape(body['reason'])}")

    def _error(self, body: dict[str, Any]) -> None:
        told = " ".join(str(body[key]) for key in ("what", "where", "remedy") if body.get(key))
        console.print(f"[bold red]{escape(str(body.get('code', 'error')))}[/] {escape(told)}")

    def _progress(self, step: int, body: dict[str, Any]) -> None:
        total = body.get("steps") or body.get("rows") or body.get("total")
        if not total:
            return
        if self._bar is None:
            shape = (
                TextColumn("  {task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            )
            self._bar = Progress(*shape, TextColumn("{task.fields[told]}"), TimeRemainingColumn(), console=console)
            self._bar.start()
        phase = " ".join(str(body[key]) for key in ("phase", "part") if body.get(key))
        if phase not in self._phases:
            self._phases[phase] = self._bar.add_task(phase, total=total, told="")
        told = f"loss {body['loss']:.3f}  {body.get('tokens_per_s', 0):.0f} tokens/s" if "loss" in body else ""
        self._bar.update(self._phases[phase], completed=step, total=total, told=told)

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar, self._phases = None, {}


def _media(profile: dict[str, Any]) -> str:
    """A look at pictures or recordings in a line."""
    count = f"{profile['images']} pictures" if "images" in profile else f"{profile['recordings']} recordings"
    told = [f"{len(profile['labels'])} classes"] if profile["labels"] else []
    told += [f"table with {', '.join(profile['headers'])}"] if profile["headers"] else []
    told += [f"{len(profile['problems'])} cannot be used"] if profile["problems"] else []
    return f"{profile['name']}: {', '.join([count, *told])}"


def plan_table(plan: dict[str, Any], forecast: dict[str, Any]) -> None:
    """The plan with where each value comes from."""
    table = Table(title=f"plan {plan['name']}", title_justify="left")
    for heading in ("field", "value", "from", "why"):
        table.add_column(heading)
    for field in SHOWN:
        if field not in plan:  # left out where it says nothing
            continue
        item = plan[field]
        value = item["value"]
        if field == "search":
            value = {"by": value["by"], **{name: ", ".join(map(str, each)) for name, each in value["space"].items()}}
        text = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) if isinstance(value, dict) else value
        table.add_row(field, escape(str(text)), item["source"], escape(item["reason"]))
    console.print(table)
    for note in plan["notes"]:
        console.print(f"  [yellow]note[/] {escape(note)}")
    if plan.get("limits"):
        taken = ", ".join(f"at most {value:g} {name}" for name, value in plan["limits"].items() if value is not None)
        console.print(f"  [yellow]limits[/] {escape(taken)}")
    _forecast(forecast)


def _forecast(forecast: dict[str, Any]) -> None:
    minutes, pace = forecast["seconds"] / 60, f"{forecast['train_rows_per_s']:.1f} rows/s"
    costs = f", costs {forecast['cost']:.2f}" if forecast["cost"] is not None else ""
    memory = f"{forecast['peak_bytes'] / 1e9:.1f} GB of memory"
    console.print(f"  one trial takes about {minutes:.1f} min here ({pace}), at most {memory}{costs}")
    if forecast.get("bases"):
        _bases(forecast["bases"])
    for place, option in enumerate(forecast["cheaper"], 1):
        takes = option["estimate"]
        costs = f", costs {takes['cost']:.2f}" if takes["cost"] is not None else ""
        told = f"{option['change']}: {takes['seconds'] / 60:.1f} min, {takes['peak_bytes'] / 1e9:.1f} GB{costs}"
        console.print(f"  [cyan]{place}[/] {escape(told)}")


def _bases(table: list[dict[str, Any]]) -> None:
    """The bases that a task could tune, best first, and why others could not be chosen."""
    shown = Table(Column(overflow="fold"), title="bases", title_justify="left")
    for heading in ("licence", "parameters", "context", "GB", "trial s", "zero-shot", "loss a byte", "not because"):
        shown.add_column(heading)
    for line in table:
        size = f"{line['parameters'] / 1e6:.0f} M" if line["parameters"] else "-"
        memory = None if line["peak_bytes"] is None else line["peak_bytes"] / 1e9
        figures = [_figure(memory), _figure(line["seconds"]), _figure(line["zero_shot"]), _figure(line["loss"])]
        told = [line["base"], line["licence"], size, _short(line["context"]), *figures, line["refused"]]
        shown.add_row(*map(escape, told))
    console.print(shown)


def rows(items: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """A listing: a table, or JSON."""
    if as_json:
        print(json.dumps(items, ensure_ascii=False))
        return
    table = Table(*columns)
    for item in items:
        table.add_row(*(escape(_short(item.get(column))) for column in columns))
    console.print(table)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value)


CARD = (
    ("ours", "auto"),
    ("oracle", "each row to its own adapter"),
    ("best_single", "the best single adapter"),
    ("random", "an adapter by chance"),
    ("routed_right", "rows that reach their own adapter"),
    ("abstained", "rows that go to the base"),
)


def router_card(card: dict[str, Any], as_json: bool) -> None:
    """A router card: every rate with its 95 % interval, then what says how far the probabilities can be believed."""
    if as_json:
        print(json.dumps(card, ensure_ascii=False))
        return
    title = f"auto over {len(card['adapters'])} adapters, {card['rows']} dev rows with the domain hidden"
    table = Table("", "rate", "low", "high", title=title, title_justify="left")
    for field, told in CARD:
        table.add_row(told, *(f"{card[field][key]:.1%}" for key in ("point", "low", "high")))
    console.print(table)
    figures = {
        "share of the oracle": f"{card['share_of_oracle']:.1%}",
        "calibration error": f"{card['calibration_error']:.3f}, {card['calibration_error_mixed']:.3f} with other texts",
        "AUROC against general sentences": _figure(card["auroc"]),
        "AUROC with its own adapter gone": _figure(card["auroc_near"]),
        "latency without the embedding": f"p50 {card['latency_p50_ms']:.2f} ms, p95 {card['latency_p95_ms']:.2f} ms",
    }
    for name, value in figures.items():
        console.print(f"  {name:<33} {value}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def mixture_table(recipe: str, table: dict[str, Any], looks: list[dict[str, Any]]) -> None:
    """A recipe beside its proposers, routing to one, a vote and the oracle; then the figures that are no rates."""
    looked = ", ".join(f"look {look['number']} of {look['allowed']}" for look in looks)
    title = f"{recipe} on {table['rows']} held-out rows{f' ({looked})' if looked else ''}"
    shown = Table(Column(overflow="fold"), title=title, title_justify="left")
    for heading in ("right", "95 %", "tokens", "s", "right/1k tok", "right/s"):
        shown.add_column(heading, no_wrap=True)
    for told, line in (*((line["subject"], line) for line in table["singles"]), *((n, table[n]) for n in BESIDE)):
        right = line["right"]
        interval = f"{100 * right['low']:.1f}-{100 * right['high']:.1f}"
        price = (f"{line[key]:.{digits}f}" for key, digits in PRICE)
        shown.add_row(escape(told.replace("_", " ")), f"{right['point']:.1%}", interval, *price)
    console.print(shown)
    other = table["gain"]["other"]
    routed = {
        "router": "the router's choice",
        "hindsight": f"{other}, best in hindsight",
        "commonest": f"{other}, right more often than any model alone",
    }[table["routed_by"]]
    console.print(f"  {'routed stands for':<33} {escape(routed)}")
    gain, mean = table["gain"]["difference"], table["gain_over_mean"]
    figures = {
        "gain over routing to one": f"{_points(gain)}, claimed {100 * gain['claim_low']:+.1f}",
        "gain over the mean single": _points(mean),
        "share of the way to the oracle": f"{_share(table['share_of_oracle'])}, "
        f"from the mean single {_share(table['share_from_mean'])}",
        "correlation of errors": _figure(table["error_correlation"]),
    }
    for name, value in figures.items():
        console.print(f"  {name:<33} {value}")
    if table["instead"]:
        console.print(f"  [yellow]on {table['instead']} rows[/] the recipe's own way could not be gone")
    for subject, count in table["failed"].items():
        console.print(f"  [yellow]failed[/] {escape(subject)}: {count} rows, counted as wrong")


BESIDE = ("mean_single", "best_single", "routed", "vote", "recipe", "oracle")
PRICE = (("tokens", 0), ("seconds", 2), ("per_1000_tokens", 2), ("per_second", 2))


def _points(interval: dict[str, float]) -> str:
    point, low, high = (100 * interval[key] for key in ("point", "low", "high"))
    return f"{point:+.1f} points ({low:+.1f} to {high:+.1f})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def recipe_page(recipe: dict[str, Any], as_json: bool) -> None:
    """One recipe: what it is, whether it answers and why, and how its last evaluation went."""
    if as_json:
        print(json.dumps(recipe, ensure_ascii=False))
        return
    for field in ("name", "state", "reason", "digest", "updated_at"):
        console.print(f"[bold]{field:<11}[/]{escape(_short(recipe.get(field)))}")
    console.print(recipe["yaml"], markup=False)
    if decision := recipe.get("decision"):
        mixture_table(recipe["name"], decision["table"], decision["looks"])


def task_page(task: dict[str, Any], as_json: bool) -> None:
    """One task: its request, where it stands, what came of it."""
    if as_json:
        print(json.dumps(task, ensure_ascii=False))
        return
    for field in ("id", "status", "name", "request", "created_at", "ended_at"):
        console.print(f"[bold]{field:<11}[/]{escape(_short(task.get(field)))}")
    for field in ("result", "error"):
        for key, value in (task.get(field) or {}).items():
            console.print(f"  {key:<16} {escape(_short(value))}")
    if task.get("ledger"):
        _ledger(task["ledger"])


def _ledger(lines: list[dict[str, Any]]) -> None:
    """Why each trial after the first was made, and what that brought."""
    shown = Table(title="trials made for a reason", title_justify="left")
    for heading in ("trial", "because of", "action", "effect", "helped with"):
        shown.add_column(heading)
    for line in lines:
        effect = line["status"] if line["effect"] is None else f"{line['effect']:+.3f} {line['measure']}"
        because = f"{line['symptom'].replace('_', ' ')} ({line['confidence']:.0%}): {line['text']}"
        action = f"{line['level']}: {line['action'].replace('_', ' ')}. {line['change']}"
        told = [str(line["trial"] + 1), because, action, effect, _share(line["credit"])]
        shown.add_row(*map(escape, told))
    console.print(shown)
