"""The forward pass of one step: who computes what, in the two segments of the layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serving.adapters import Loaded
from serving.attention import Attention, Span
from serving.llama import Llama, Own
from serving.lora import LoraWeights, StackedPass
from serving.room import Room
from serving.row import Lane
from serving.stacks import Stacks

Read = tuple[Lane, Span]


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
        tokens = torch.tensor(ids, dtype=torch.long, device=self._model.device)
        hidden = self._model.embed(tokens)
        for part in _parts(rooms, decode, list(zip(lanes, spans, strict=True)), self._boundary):
            if part.own and part.own.ends:
                hidden[part.places] = self._model.embed(tokens[part.places], part.own)
        return self._run(hidden, range(self._boundary), rooms, decode, lanes, spans) if ids else hidden

    def logits(self, hidden: torch.Tensor, lanes: Sequence[Lane]) -> torch.Tensor:
        """Logits `[rows, vocabulary]` of states after the last layer, each by its lane's own head."""
        heads: dict[str, tuple[Own | None, list[int]]] = {}
        for row, lane in enumerate(lanes):
            own = lane.own()
            own = own if own and own.ends else None
            heads.setdefault(lane.owner if own else "", (own, []))[1].append(row)
        if len(heads) == 1:
            return self._model.logits(hidden, next(iter(heads.values()))[0])
        made = [(rows, self._model.logits(hidden[rows], own)) for own, rows in heads.values()]
        logits = made[0][1].new_empty(len(lanes), made[0][1].shape[1])
        for rows, part in made:
            logits[rows] = part
        return logits

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
        self.prompt_work += len(layers) * sum(span.tokens for span in spans)
        parts = _parts(rooms, decode, list(zip(lanes, spans, strict=True)), layers.stop)
        if len(parts) == 1:
            return self._run_part(hidden, layers, parts[0])
        changed = torch.empty_like(hidden)
        for part in parts:
            changed[part.places] = self._run_part(hidden[part.places], layers, part)
        return changed

    def _run_part(self, hidden: torch.Tensor, layers: range, part: "_Part") -> torch.Tensor:
        model = self._model
        places = [lane.seat.tokens for lane in part.decode if lane.seat]
        for _, span in part.reads:
            places += range(span.start, span.stop)
        attend = Attention(part.rooms, [span for _, span in part.reads], model.scale, model.cap)
        positions = torch.tensor(places, dtype=torch.long, device=model.device)
        return model.run(hidden, positions, layers, attend, self._adapters(part.decode, part.reads), part.own)

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

    def _adapters(self, decode: Sequence[Lane], reads: Sequence[Read]) -> StackedPass | None:
        """Every token's adapter of low rank; an activated one's tokens before its invocation are the base's."""
        owners: list[Loaded[LoraWeights] | None] = [_low_rank(lane) for lane in decode]
        for lane, span in reads:
            before = min(max(lane.switch - span.start, 0), span.tokens)
            owners += [None] * before + [_low_rank(lane)] * (span.tokens - before)
        return self._stacks.over(owners, self._model.device)


@dataclass(frozen=True)
class _Part:
    """What of a pass runs with the same weights: the base's with parts of low rank, or an adapter's own.

    Attributes:
        places: Of its tokens in the pass, in order.
    """

    own: Own | None
    rooms: Sequence[Room]
    decode: Sequence[Lane]
    reads: Sequence[Read]
    places: Sequence[int]


def _parts(rooms: Sequence[Room], decode: Sequence[Lane], reads: Sequence[Read], last: int) -> list[_Part]:
    """Divide a pass through layers below `last` by the weights that its lanes run with."""
    reads = [(lane, span) for lane, span in reads if span.tokens]
    owns = {_owner(lane, last): lane.own(last) for lane in (*decode, *(lane for lane, _ in reads))}
    return [_part(owner, own, rooms, decode, reads, last) for owner, own in owns.items()]


def _part(
    owner: str, own: Own | None, rooms: Sequence[Room], decode: Sequence[Lane], reads: Sequence[Read], last: int
) -> _Part:
    mine = [lane for lane in decode if _owner(lane, last) == owner]
    places, at = [n for n, lane in enumerate(decode) if _owner(lane, last) == owner], len(decode)
    own_reads = []
    for lane, span in reads:
        if _owner(lane, last) == owner:
            own_reads.append((lane, span))
            places += range(at, at + span.tokens)
        at += span.tokens
    seated = {id(lane.seat.room) for lane in mine if lane.seat}
    return _Part(own, [room for room in rooms if id(room) in seated], mine, own_reads, places)


def _owner(lane: Lane, last: int) -> str:
    """Names the weights that a lane runs with in layers below `last`; empty for the base's."""
    return lane.owner if lane.own(last) else ""


def _low_rank(lane: Lane) -> Loaded[LoraWeights] | None:
    """The lane's adapter where it is one of low rank."""
    return lane.adapter if lane.adapter and isinstance(lane.adapter.weights, LoraWeights) else None  # type: ignore[return-value]


def _span(lane: Lane, tokens: int) -> Span:
    assert lane.seat is not None
    return Span(lane.seat, lane.seat.tokens, lane.seat.tokens + tokens)


def _known(lane: Lane, span: Span) -> torch.Tensor:
    """The states that a lane's upper layers start from."""
    states = span.seat.room.hidden[span.seat.slot, span.start : span.stop]
    return states if lane.inset is None else lane.inset.over(states, span.start)
