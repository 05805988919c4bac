"""The forward pass of one step: who computes what, in the two segments of the layers."""

from collections.abc import Sequence

import torch

from serving.adapters import Loaded
from serving.attention import Attention, Span
from serving.llama import Llama
from serving.lora import LoraWeights, StackedPass
from serving.room import Room
from serving.row import Lane
from serving.stacks import Stacks


class Passes:
    """Runs the model for a step.

    Args:
        model: The base.
        boundary: The first layer of the upper segment.
    """

    def __init__(self, model: Llama, boundary: int) -> None:
        self._model, self._boundary = model, boundary
        self._stacks = Stacks()
        self.forget = self._stacks.forget
        self.prompt_work = 0
        """Tokens times layers computed for prompts so far: what sharing saves."""

    def forward(
        self, rooms: Sequence[Room], decode: Sequence[Lane], readings: Sequence[tuple[Lane, int]]
    ) -> torch.Tensor:
        """Hidden states after the last layer, `[tokens, width]`: one for each of `decode`, then the readings' tokens.

        Args:
            rooms: Those with lanes that decode.
            decode: Those lanes, by room and slot.
            readings: Others, with how many tokens of their prompt each reads.
        """
        lanes = [lane for lane, _ in readings]
        upper = [_span(lane, tokens) for lane, tokens in readings]
        lower = [Span(span.seat, min(span.seat.lower, span.stop), span.stop) for span in upper]
        hidden = self._lower(rooms, decode, lanes, lower)
        self._remember(rooms, lower, hidden)
        hidden = self._upper(rooms, decode, lanes, upper, hidden)
        for lane in decode:
            assert lane.seat is not None
            lane.seat.tokens = lane.seat.lower = lane.seat.tokens + 1
        for span in upper:
            span.seat.tokens, span.seat.lower = span.stop, max(span.seat.lower, span.stop)
        return hidden

    def _lower(
        self, rooms: Sequence[Room], decode: Sequence[Lane], lanes: Sequence[Lane], spans: Sequence[Span]
    ) -> torch.Tensor:
        ids = [lane.ids[-1] for lane in decode]
        for lane, span in zip(lanes, spans, strict=True):
            ids += lane.ids[span.start : span.stop]
        hidden = self._model.embed(torch.tensor(ids, dtype=torch.long, device=self._model.device))
        return self._run(hidden, range(self._boundary), rooms, decode, lanes, spans) if ids else hidden

    def _upper(
        self,
        rooms: Sequence[Room],
        decode: Sequence[Lane],
        lanes: Sequence[Lane],
        spans: Sequence[Span],
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        known = [_known(lane, span) for lane, span in zip(lanes, spans, strict=True)]
        hidden = torch.cat([hidden[: len(decode)], *known])
        layers = range(self._boundary, len(self._model.layers))
        return self._run(hidden, layers, rooms, decode, lanes, spans)

    def _run(
        self,
        hidden: torch.Tensor,
        layers: range,
        rooms: Sequence[Room],
        decode: Sequence[Lane],
        lanes: Sequence[Lane],
        spans: Sequence[Span],
    ) -> torch.Tensor:
        model = self._model
        self.prompt_work += len(layers) * sum(span.tokens for span in spans)
        places = [lane.seat.tokens for lane in decode if lane.seat]
        for span in spans:
            places += range(span.start, span.stop)
        spans_lanes = [(lane, span) for lane, span in zip(lanes, spans, strict=True) if span.tokens]
        attend = Attention(rooms, [span for _, span in spans_lanes], model.scale, model.cap)
        positions = torch.tensor(places, dtype=torch.long, device=model.device)
        return model.run(hidden, positions, layers, attend, self._adapters(decode, spans_lanes))

    def _remember(self, rooms: Sequence[Room], spans: Sequence[Span], hidden: torch.Tensor) -> None:
        """Keep the states at the boundary: a later adapter of the upper layers may start from them."""
        at = 0
        for room in rooms:
            places = torch.tensor([seat.tokens for seat in room.seats[: room.decoding]], device=hidden.device)
            room.hidden[torch.arange(room.decoding, device=hidden.device), places] = hidden[at : at + room.decoding]
            at += room.decoding
        for span in spans:
            span.seat.room.hidden[span.seat.slot, span.start : span.stop] = hidden[at : at + span.tokens]
            at += span.tokens

    def _adapters(self, decode: Sequence[Lane], spans: Sequence[tuple[Lane, Span]]) -> StackedPass | None:
        """Every token's adapter; an activated one's tokens before its invocation are the base's."""
        owners: list[Loaded[LoraWeights] | None] = [lane.adapter for lane in decode]
        for lane, span in spans:
            before = min(max(lane.switch - span.start, 0), span.tokens)
            owners += [None] * before + [lane.adapter] * (span.tokens - before)
        return self._stacks.over(owners, self._model.device)


def _span(lane: Lane, tokens: int) -> Span:
    assert lane.seat is not None
    return Span(lane.seat, lane.seat.tokens, lane.seat.tokens + tokens)


def _known(lane: Lane, span: Span) -> torch.Tensor:
    """The states that a lane's upper layers start from."""
    states = span.seat.room.hidden[span.seat.slot, span.start : span.stop]
    return states if lane.inset is None else lane.inset.over(states, span.start)
