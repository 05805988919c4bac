"""Event streams that outlive a restart of the API, and that end where a person is asked something."""

import time
from collections.abc import Iterator
from typing import Any

from moatelier.client import Client
from moatelier.errors import UpstreamError

Stream = Iterator[tuple[str, str, Any]]
PATIENCE_S = 60.0
"""How long a stream waits for an API that is being started again."""
WAITING = ("awaiting_input", "awaiting_approval")


def run(client: Client, thread: str, **body: Any) -> Stream:
    """Start a run of a thread and follow it; when the connection breaks, rejoin after the last event that came."""
    place, last, deadline = "", "", 0.0
    body = {"assistant_id": "moatelier", "stream_mode": ["custom", "values"], **body}
    stream = client.stream("POST", f"/threads/{thread}/runs/stream", body)
    while True:
        try:
            for event, identity, data in stream:
                last, deadline = identity or last, time.monotonic() + PATIENCE_S
                if event == "metadata":
                    place = f"/threads/{thread}/runs/{data['run_id']}/stream"
                yield event, identity, data
            return
        except UpstreamError:
            # Without its place the run may or may not have been written: the person must look, not we guess.
            if not place or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
            stream = client.stream("GET", place, last=last)


def watch(client: Client, task: str, thread: str) -> Stream:
    """A task's events from the first one on, until it ends or waits for a person."""
    for event, identity, data in client.stream("GET", f"/tasks/{task}/events"):
        yield event, identity, data
        if event == "status" and data["body"]["status"] in WAITING and _waits(client, task, thread):
            return


def _waits(client: Client, task: str, thread: str) -> bool:
    """Whether the task waits now (an old status says nothing), seen through to the question in its conversation."""
    while client.call("GET", f"/tasks/{task}")["status"] in WAITING:
        if client.call("GET", f"/threads/{thread}")["interrupts"]:
            return True
        time.sleep(0.2)
    return False
