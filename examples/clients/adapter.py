"""Have an adapter made, with nothing but openai (to upload) and langgraph-sdk (to talk).

export OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=mo-...
python examples/clients/adapter.py "Train a classifier that predicts intent from message" tickets.csv
"""

import sys
from pathlib import Path
from typing import Any

from langgraph_sdk import get_sync_client
from openai import OpenAI

wish, path = sys.argv[1], Path(sys.argv[2])
with (
    OpenAI() as openai,
    get_sync_client(url=str(openai.base_url).removesuffix("/v1/"), api_key=openai.api_key) as client,
):
    file = openai.files.create(file=path, purpose="fine-tune").id
    thread = client.threads.create()["thread_id"]
    said: dict[str, Any] = {"messages": [{"role": "user", "content": wish}], "files": {"train": file}}
    turn: dict[str, Any] = {"input": said}
    while turn:
        # A connection that breaks is opened again by the client, where it was: the run goes on without it.
        for part in client.runs.stream(thread, "conversation", stream_resumable=True, **turn):
            if part.event == "custom":
                print(part.data["kind"], part.data["body"])
        turn = {}
        for interrupt in client.threads.get_state(thread)["interrupts"]:
            asked = interrupt["value"]
            if asked["type"] == "approval":
                print(asked["action_requests"][0]["description"])
                answer: Any = {"version": asked["version"], "decisions": [{"type": "approve"}]}
            else:
                answer = input(" ".join(question["text"] for question in asked["questions"]) + " ")
            turn = {"command": {"resume": {interrupt["id"]: answer}}}
    print("values:", client.threads.get(thread)["values"])
