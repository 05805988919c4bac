"""Ask a served model with nothing but the openai package.

export OPENAI_BASE_URL=http://127.0.0.1:8321/v1 OPENAI_API_KEY=mo-...
python examples/clients/answers.py [MODEL]
"""

import sys

from openai import OpenAI

with OpenAI() as client:
    models = [model.id for model in client.models.list()]
    print("models:", ", ".join(models))
    model = sys.argv[1] if len(sys.argv) > 1 else models[0]

    print("chat: ", end="")
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "My parcel is broken"}],
        max_completion_tokens=40,
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    continued = client.completions.create(model=model, prompt="The parcel", max_tokens=8)
    print("completion:", continued.choices[0].text)

    first = client.responses.create(model=model, input="My parcel is broken", max_output_tokens=40)
    second = client.responses.create(
        model=model, input="And my card too", previous_response_id=first.id, max_output_tokens=40
    )
    print("responses:", first.output_text, "/", second.output_text)
    for response in (second, first):
        client.responses.delete(response.id)
