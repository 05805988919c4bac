"""The pool of bytes, and the rooms and blocks that live in it."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving.kv import BLOCK, Block, Blocks, Chain
from serving.memory import Memory
from serving.room import SMALLEST, Room, Rooms, Seat
from tests.serving.rooms import SHAPE


def test_what_was_used_least_recently_goes_first() -> None:
    memory, gone = Memory(100), []
    for name in "abc":
        assert memory.keep(name, 30, lambda name=name: gone.append(name))
    memory.touch("a")
    assert memory.take(40)
    assert gone == ["b"]
    assert memory.keep("d", 20, lambda: gone.append("d"))
    assert gone == ["b", "c"]
    assert (memory.used, memory.evicted) == (90, 2)


def test_what_is_held_stays_and_what_cannot_fit_changes_nothing() -> None:
    memory, gone = Memory(100), []
    memory.keep("a", 40, lambda: gone.append("a"))
    memory.keep("b", 40, lambda: gone.append("b"))
    memory.hold("a")
    memory.hold("a")
    assert not memory.take(70)
    assert gone == [] and memory.used == 80
    memory.release("a")
    assert not memory.take(70)
    memory.release("a")
    assert memory.take(70)
    assert gone == ["b", "a"], "what is held is in use"


@given(st.lists(st.tuples(st.sampled_from("take give keep hold release forget".split()), st.integers(0, 60))))
def test_the_limit_holds_and_nothing_held_is_evicted(steps: list[tuple[str, int]]) -> None:
    memory = Memory(100)
    kept: dict[int, int] = {}
    held: dict[int, int] = {}
    taken: list[int] = []
    for number, (step, size) in enumerate(steps):
        if step == "take" and memory.take(size):
            taken.append(size)
        elif step == "give" and taken:
            memory.give(taken.pop())
        elif step == "keep":
            if memory.keep(number, size, partial(kept.pop, number)):
                kept[number] = size
        elif step in ("hold", "forget") and kept:
            key = sorted(kept)[size % len(kept)]
            if step == "hold":
                memory.hold(key)
                held[key] = held.get(key, 0) + 1
            elif key not in held:
                memory.forget(key)
                del kept[key]
        elif step == "release" and held:
            key = sorted(held)[size % len(held)]
            memory.release(key)
            held[key] -= 1
            held = {name: count for name, count in held.items() if count}
        assert held.keys() <= kept.keys(), "something that was held is gone"
        assert memory.used == sum(taken) + sum(kept.values()) <= 100


# ---------------------------------------------------------------------------------------------------------- rooms


def fill(seat: Seat, value: float, tokens: int) -> None:
    seat.room.keys[:, seat.slot, :, :tokens] = value
    seat.room.values[:, seat.slot, :, :tokens] = value + 0.25
    seat.room.hidden[seat.slot, :tokens] = value + 0.5
    seat.tokens = seat.lower = tokens


def holds(seat: Seat, value: float) -> bool:
    room, n = seat.room, seat.tokens
    return bool(
        (room.keys[:, seat.slot, :, :n] == value).all()
        and (room.values[:, seat.slot, :, :n] == value + 0.25).all()
        and (room.hidden[seat.slot, :n] == value + 0.5).all()
    )


@given(st.lists(st.tuples(st.sampled_from("enter promote leave stretch".split()), st.integers(0, 7)), max_size=40))
def test_lanes_keep_their_states_wherever_they_sit(steps: list[tuple[str, int]]) -> None:
    memory = Memory(10**9)
    rooms = Rooms(SHAPE, memory)
    lanes: dict[int, Seat] = {}
    for number, (step, choice) in enumerate(steps):
        if step == "enter":
            seat = rooms.enter(5)
            assert seat is not None
            fill(seat, number, 1 + choice)
            lanes[number] = seat
        elif lanes:
            key = sorted(lanes)[choice % len(lanes)]
            seat = lanes[key]
            if step == "leave":
                lanes.pop(key).room.leave(seat)
            elif step == "promote" and seat.slot >= seat.room.decoding:
                seat.room.promote(seat)
            elif step == "stretch":
                longer = rooms.stretch(seat, seat.room.capacity + 1)
                assert longer is not None
                lanes[key] = longer
        for room in rooms:
            assert [seat.slot for seat in room.seats] == list(range(len(room.seats)))
            assert room.decoding <= len(room.seats) <= room.slots
        assert all(holds(seat, key) for key, seat in lanes.items())
        assert sum(len(room.seats) for room in rooms) == len(lanes)
        assert memory.taken == sum(room.slots * room.slot_bytes for room in rooms)
    for seat in lanes.values():
        seat.room.leave(seat)
    assert memory.used == 0


def test_a_room_takes_its_bytes_from_memory() -> None:
    room = Room(SMALLEST, SHAPE, memory := Memory(3 * SMALLEST * SHAPE.token_bytes))
    assert [room.join() is not None for _ in range(4)] == [True, True, True, False]
    assert memory.used == sum(states.nbytes for states in (room.keys, room.values, room.hidden))


def test_rooms_double_in_length() -> None:
    rooms = Rooms(SHAPE, Memory(10**9))
    seats = [rooms.enter(tokens) for tokens in (1, SMALLEST, SMALLEST + 1, 4 * SMALLEST + 1)]
    assert [seat.room.capacity // SMALLEST for seat in seats if seat] == [1, 1, 2, 8]


# --------------------------------------------------------------------------------------------------------- blocks


def block(value: float) -> Block:
    states = torch.full((2, 2, BLOCK, 4), value)
    return Block(states, states, None)


def test_a_chain_is_found_up_to_its_first_gap() -> None:
    blocks = Blocks(Memory(10**9))
    names = Chain("lower", "base").keys(range(100), 80)
    assert len(names) == 5
    for name in (*names[:2], names[3]):
        blocks.put(name, block(1.0))
    assert len(blocks.find(names)) == 2
    assert (blocks.hits, blocks.misses) == (2, 1)


def test_blocks_make_room_for_each_other() -> None:
    blocks = Blocks(Memory(2 * block(0.0).bytes))
    names = Chain("lower", "base").keys(range(100), 48)
    for name in names:
        blocks.put(name, block(1.0))
    assert [name in blocks for name in names] == [False, True, True]
    blocks.clear()
    assert len(blocks) == 0


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (Chain("lower", "base"), 4),
        (Chain("upper", "base"), 0),
        (Chain("lower", "adapter"), 0),
        (Chain("lower", "adapter", "base", 64), 4),
        (Chain("lower", "adapter", "base", 40), 2),  # a block across the switch is the adapter's
        (Chain("lower", "adapter", "base", 48), 3),
        (Chain("lower", "base", "base", 40), 4),  # nothing changes at a switch from the base to itself
    ],
)
def test_a_block_is_named_by_what_computed_it(other: Chain, equal: int) -> None:
    names, others = Chain("lower", "base").keys(range(64), 64), other.keys(range(64), 64)
    assert [a == b for a, b in zip(names, others, strict=True)] == [n < equal for n in range(4)]


def test_a_block_is_named_by_all_that_came_before() -> None:
    one, other = Chain("lower", "base"), Chain("lower", "base")
    assert one.keys([1, *range(63)], 64)[1:] != other.keys([2, *range(63)], 64)[1:]
    assert Chain("lower", "a").keys([1] * 16 + [11] + [1] * 15, 32)[1] != Chain("lower", "a").keys([1] * 32, 32)[1]


def test_where_a_switch_cuts_a_block_is_part_of_its_name() -> None:
    """The same tokens, activated at another place within the block, are other states."""
    cuts = [Chain("upper", "adapter", "base", switch).keys(range(64), 64) for switch in (33, 40, 47)]
    assert len({tuple(names[:2]) for names in cuts}) == 1
    assert len({names[2] for names in cuts}) == len({names[3] for names in cuts}) == 3


def test_the_head_of_a_chain_is_the_last_of_it_to_go() -> None:
    memory = Memory(4 * block(0.0).bytes)
    blocks, names = Blocks(memory), Chain("lower", "base").keys(range(100), 64)
    for name in reversed(names):
        blocks.put(name, block(1.0))
    blocks.find(names)
    assert memory.take(block(0.0).bytes)
    assert [name in blocks for name in names] == [True, True, True, False]


def test_nothing_of_a_lane_is_left_for_the_next_one_in_its_slot() -> None:
    """What lies behind a lane's tokens is weighed by 0, and 0 times NaN is NaN."""
    rooms = Rooms(SHAPE, Memory(10**9))
    broken, other = rooms.enter(5), rooms.enter(5)
    assert broken and other
    fill(broken, float("nan"), 9)
    broken.room.leave(broken)
    after = rooms.enter(5)
    assert after is not None
    assert bool(after.room.values[:, after.slot].isfinite().all())


def test_an_allocation_that_fails_leaves_no_bytes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = Rooms(SHAPE, memory := Memory(10**9))
    seats = [rooms.enter(5) for _ in range(8)]

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", full)
        with pytest.raises(torch.OutOfMemoryError):
            rooms.enter(5)
        for seat in seats:
            assert seat is not None
            seat.room.leave(seat)  # even so
    [room] = rooms
    assert memory.taken == room.slots * room.slot_bytes
