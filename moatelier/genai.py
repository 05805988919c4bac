"""Names of span attributes: OpenTelemetry's for generative AI, which are still moving, and ours. No others are used.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ (1.44). Nothing here holds words of prompts or answers.
"""

from collections.abc import Mapping
from typing import Any

OPERATION = "gen_ai.operation.name"
"""`chat`, `embeddings`, ..."""
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

REQUEST_ID = "moatelier.request_id"
ROUTE_REASON = "moatelier.route.reason"
ROUTE_CANDIDATES = "moatelier.route.candidates"
"""How many the router weighed."""
RECIPE = "moatelier.moa.recipe"
LAYER = "moatelier.moa.layer"
PLACE = "moatelier.moa.place"
EXTENT = "moatelier.moa.extent"
WAY = "moatelier.moa.way"
ROWS = "moatelier.engine.rows"
TOKENS = "moatelier.engine.tokens"
WAITED_S = "moatelier.admission.waited_s"

CHAT = "chat"
OURS = "moatelier"


def asked(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a chat request."""
    return {OPERATION: CHAT, PROVIDER: OURS, REQUEST_MODEL: str(payload.get("model"))}


def answered(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a whole chat completion; what it does not tell, or tells oddly, is left out."""
    told: dict[str, Any] = {RESPONSE_MODEL: answer.get("model"), RESPONSE_ID: answer.get("id")}
    usage = answer.get("usage")
    if isinstance(usage, Mapping):
        told |= {INPUT_TOKENS: usage.get("prompt_tokens"), OUTPUT_TOKENS: usage.get("completion_tokens")}
    return {name: value for name, value in told.items() if isinstance(value, str | int)}
