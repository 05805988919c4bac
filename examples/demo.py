"""`make demo`: one whole task through the public interfaces, with the seconds of each phase.

a sentence and examples/support.csv -> plan -> approval -> training -> evaluation -> gate -> a served adapter

`make demo-pictures` and `make demo-speech` do the same with drawings and recordings that `examples.make` makes first.
"""

import base64
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from examples.making import sets
from examples.making.writing import write
from moatelier.client import Client, connect
from moatelier.errors import MoatelierError
from moatelier.journey import fetch_report
from moatelier.settings import settings
from moatelier.show import Teller, console, plan_table

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Demo:
    """One task.

    Attributes:
        sentence: What a person says.
        data: Puts the file into a folder and returns it.
        ask: Asks the new adapter: (client, model).
    """

    sentence: str
    data: Callable[[Path], Path]
    ask: Callable[[OpenAI, str], None]


def about_texts(openai: OpenAI, model: str) -> None:
    """Two messages of people."""
    for text in (
        "The parcel you sent me arrived with a broken screen, what now?",
        "Please send me the invoice for my last order.",
    ):
        answer = openai.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
        told(text, answer.choices[0].message.content)


def about_pictures(openai: OpenAI, model: str) -> None:
    """Two drawings that no training has seen."""
    for name, data in unseen(".jpg"):
        uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        asked: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}]
        told(name, openai.chat.completions.create(model=model, messages=asked).choices[0].message.content)


def about_recordings(openai: OpenAI, model: str) -> None:
    """Two recordings by voices that no training has heard."""
    for name, data in unseen(".wav"):
        told(name, openai.audio.transcriptions.create(model=model, file=(name, data)).text)


def unseen(ending: str) -> list[tuple[str, bytes]]:
    """Two files of the set in which pictures and recordings stand together, with what they are as their name."""
    files = {str(name): data for name, data in sets.pairs(20, 1)}
    rows = [json.loads(line) for line in files["pairs.jsonl"].splitlines()[:2]]
    side, truth = ("image", "shown") if ending == ".jpg" else ("audio", "said")
    return [(f"{row[truth]}{ending}", files[row[side]]) for row in rows]


def told(asked: str, answer: str | None) -> None:
    """Show a question with its answer."""
    console.print(f"  {asked}\n    -> [bold]{answer}[/]", highlight=False)


def pictures(folder: Path) -> Path:
    """800 drawings of ten shapes."""
    write(folder / "shapes.zip", sets.pictures(800, 0))
    return folder / "shapes.zip"


def speech(folder: Path) -> Path:
    """480 recordings of their names by 16 voices."""
    write(folder / "words.zip", sets.speech(480, 0))
    return folder / "words.zip"


DEMOS = {
    "text": Demo(
        "Train a classifier that predicts the column intent from message, with at least 85% accuracy, "
        "in no more than 5 minutes of training.",
        lambda _: HERE / "support.csv",
        about_texts,
    ),
    "pictures": Demo(
        "Tell which shape is shown in these pictures, at least 80% accuracy, in at most 1 trial.",
        pictures,
        about_pictures,
    ),
    "speech": Demo(
        "Transcribe these recordings, at least 85% of the words right, in at most 1 trial.", speech, about_recordings
    ),
}


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
        if value["refused"]:
            raise MoatelierError.from_dict(value["refused"])
        console.print("[bold green]approved[/] (a person would be asked here)")
        answer = {"version": value["version"], "decisions": [{"type": "approve"}]}
        body = {
            "assistant_id": "moatelier",
            "command": {"resume": {interrupts[0]["id"]: answer}},
            "stream_mode": "custom",
        }
        stream = client.stream("POST", f"/threads/{thread}/runs/stream", body)


def main(kind: str = "text") -> int:
    """Run a demo of `DEMOS`; 0 when an adapter was promoted and has answered."""
    demo, phases = DEMOS[kind], Phases()
    with tempfile.TemporaryDirectory() as place, connect() as client, Teller() as teller:
        phases.begin("upload")
        console.print(f"[bold]{demo.sentence}[/]")
        thread = client.call("POST", "/threads", json={})["thread_id"]
        files = {"train": client.upload(demo.data(Path(place)))}
        run = {"messages": [{"role": "user", "content": demo.sentence}], "files": files}
        body = {"assistant_id": "moatelier", "input": run, "stream_mode": "custom"}
        stream = client.stream("POST", f"/threads/{thread}/runs/stream", body)
        result = follow(client, thread, stream, teller, phases)
        phases.begin("answering")
        if result.get("model"):
            console.print(f"report: {fetch_report(client, result['task'], settings().home / 'demo-report')}")
            console.print(f"model:  {result['model']}")
            with OpenAI(base_url=f"{client.url}/v1", api_key=client.key) as openai:
                demo.ask(openai, result["model"])
        phases.begin("end")
    for name, seconds in phases.seconds.items():
        console.print(f"  {name:<22} {seconds:7.1f} s", highlight=False)
    figures = {name.replace(" ", "_"): round(seconds, 1) for name, seconds in phases.seconds.items()}
    kept = {key: result.get(key) for key in ("status", "model", "point", "lower_bound", "rows")}
    print(json.dumps({"seconds": figures, **kept}))
    return 0 if result.get("promoted") else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
