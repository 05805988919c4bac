"""The same by chat alone: what any chat page does with the model `moatelier`. An empty line ends it.

export OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=mo-...
python examples/clients/chat_page.py
"""

from typing import Any

from openai import OpenAI

talk: list[Any] = []
with OpenAI() as client:
    while words := input("> "):
        talk.append({"role": "user", "content": words})
        answer = ""
        for chunk in client.chat.completions.create(model="moatelier", messages=talk, stream=True):
            piece = chunk.choices[0].delta.content or ""
            answer += piece
            print(piece, end="", flush=True)
        talk.append({"role": "assistant", "content": answer})
