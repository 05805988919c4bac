"""`make demo`: one whole task through the public interfaces, with the seconds of each phase.

a sentence and examples/support.csv -> plan -> approval -> training -> evaluation -> gate -> a served adapter
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai import OpenAI

from moatelier.client import Client, connect
from moatelier.journey import fetch_report
from moatelier.settings import settings
from moatelier.show import Teller, console, plan_table

HERE = Path(__file__).parent
SENTENCE = (
    "Train a classifier that predicts the column intent from message, with at least 85% accuracy, "
    "in no more than 5 minutes of training."
)
MESSAGES = (
    "The parcel you sent me arrived with a broken screen, what now?",
    "Please send me the invoice for my last order.",
)


class Phases:
    """Seconds by phase; a new status begins a new phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since = "start of the service", time.monotonic()

    def begin(self, name: str) -> None:
        """End the current phase and begin another."""
        now = time.monotonic()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now


def follow(client: Client, thread: str, stream: Iterator[Any], teller: Teller, phases: Phases) -> dict[str, Any]:
    """Tell the run's events; at the approval, show the plan and approve that very version."""
    result: dict[str, Any] = {}
    while True:
        for event, _, data in stream:
            if event != "custom":
                continue
            teller.tell(data["kind"], data["step"], data["body"])
            if data["kind"] == "status":
                phases.begin(data["body"]["status"].replace("_", " "))
            if data["kind"] in ("result", "error"):
                result |= data["body"]
        interrupts = [i for found in client.call("GET", f"/threads/{thread}")["interrupts"].values() for i in found]
        if not interrupts:
            return result
        value = interrupts[0]["value"]
        plan_table(value["plan"], value["forecast"])
        console.print("[bold green]approved[/] (a person would be asked here)")
        answer = {"version": value["version"], "decisions": [{"type": "approve"}]}
        body = {
            "assistant_id": "moatelier",
            "command": {"resume": {interrupts[0]["id"]: answer}},
            "stream_mode": "custom",
        }
        stream = client.stream("POST", f"/threads/{thread}/runs/stream", body)


def ask(client: Client, model: str, key: str) -> None:
    """Two questions to the new adapter, by the `openai` client as anybody would use it."""
    with OpenAI(base_url=f"{client.url}/v1", api_key=key) as openai:
        for text in MESSAGES:
            answer = openai.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
            console.print(f"  {text}\n    -> [bold]{answer.choices[0].message.content}[/]", highlight=False)


def main() -> int:
    """Run the demo; 0 when an adapter was promoted and has answered."""
    phases = Phases()
    with connect() as client, Teller() as teller:
        phases.begin("upload")
        console.print(f"[bold]{SENTENCE}[/]")
        thread = client.call("POST", "/threads", json={})["thread_id"]
        files = {"train": client.upload(HERE / "support.csv")}
        run = {"messages": [{"role": "user", "content": SENTENCE}], "files": files}
        body = {"assistant_id": "moatelier", "input": run, "stream_mode": "custom"}
        stream = client.stream("POST", f"/threads/{thread}/runs/stream", body)
        result = follow(client, thread, stream, teller, phases)
        phases.begin("answering")
        if result.get("model"):
            console.print(f"report: {fetch_report(client, result['task'], settings().home / 'demo-report')}")
            console.print(f"model:  {result['model']}")
            ask(client, result["model"], client.key)
        phases.begin("end")
    for name, seconds in phases.seconds.items():
        console.print(f"  {name:<22} {seconds:7.1f} s", highlight=False)
    figures = {name.replace(" ", "_"): round(seconds, 1) for name, seconds in phases.seconds.items()}
    kept = {key: result.get(key) for key in ("status", "model", "point", "lower_bound", "rows")}
    print(json.dumps({"seconds": figures, **kept}))
    return 0 if result.get("promoted") else 1


if __name__ == "__main__":
    sys.exit(main())
