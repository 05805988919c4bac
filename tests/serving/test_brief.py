import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from serving.brief import Brief


class Store:
    """Counts look-ups; each waits until it is let go, and tells its number."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 0.0
        self.go = threading.Event()
        self.go.set()
        self.broken = False

    def load(self, key: str) -> str:
        self.asked += 1
        number = self.asked
        assert self.go.wait(30)
        if self.broken:
            raise OSError("the store is down")
        return f"{key}{number}"

    def brief(self, **more: int) -> Brief[str, str]:
        return Brief(self.load, clock=lambda: self.now, **more)


def run(scene: Callable[[Store], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(scene(Store()), 60)

    asyncio.run(within())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_all_who_ask_meanwhile_share_one_look_up() -> None:
    async def scene(store: Store) -> None:
        brief = store.brief()
        store.go.clear()
        asking = [asyncio.create_task(brief.get("a")) for _ in range(50)]
        await until(lambda: store.asked == 1)
        asking[0].cancel()  # who asked first may leave
        store.go.set()
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(told[0], asyncio.CancelledError) and told[1:] == ["a1"] * 49 and store.asked == 1

    run(scene)


def test_what_is_asked_for_often_is_never_waited_for() -> None:
    async def scene(store: Store) -> None:
        brief = store.brief()
        assert await brief.get("a") == "a1"
        store.now = 0.4
        assert await brief.get("a") == "a1" and store.asked == 1
        store.now = 0.6
        store.go.clear()
        assert [await brief.get("a") for _ in range(3)] == ["a1"] * 3  # though the store does not answer
        store.go.set()
        while await brief.get("a") != "a2":
            await asyncio.sleep(0.001)
        assert store.asked == 2
        store.now = 1.1  # the first answer is too old, the second not
        assert await brief.get("a") == "a2"

    run(scene)


def test_an_answer_is_never_older_than_its_time() -> None:
    async def scene(store: Store) -> None:
        brief = store.brief()
        await brief.get("a")
        store.now = 1.0
        assert await brief.get("a") == "a2"
        store.go.clear()
        slow = asyncio.create_task(brief.get("b"))
        await until(lambda: store.asked == 3)
        store.now = 2.0  # the look-up has begun too long ago to be of use to another
        other = asyncio.create_task(brief.get("b"))
        await until(lambda: store.asked == 4)
        store.go.set()
        assert (await slow, await other) == ("b3", "b4") and await brief.get("b") == "b4"

    run(scene)


def test_an_error_reaches_all_and_is_not_kept() -> None:
    async def scene(store: Store) -> None:
        brief = store.brief()
        store.broken = True
        store.go.clear()
        asking = [asyncio.create_task(brief.get("a")) for _ in range(3)]
        await until(lambda: store.asked == 1)
        store.go.set()
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in told] == [OSError] * 3
        store.broken = False
        assert await brief.get("a") == "a2"
        store.broken, store.now = True, 0.7
        assert await brief.get("a") == "a2"  # what is asked for ahead fails, and is no reason to refuse
        await until(lambda: store.asked == 3)
        store.now = 1.0
        with pytest.raises(OSError, match="down"):
            await brief.get("a")

    run(scene)


def test_what_is_forgotten_is_asked_again_even_in_the_middle_of_a_look_up() -> None:
    async def scene(store: Store) -> None:
        brief = store.brief()
        store.go.clear()
        before = asyncio.create_task(brief.get("a"))
        await until(lambda: store.asked == 1)
        brief.forget()
        after = asyncio.create_task(brief.get("a"))
        await until(lambda: store.asked == 2)
        store.go.set()
        assert (await before, await after) == ("a1", "a2") and await brief.get("a") == "a2"

    run(scene)


def test_no_more_are_kept_than_the_limit() -> None:
    async def scene(store: Store) -> None:
        brief = store.brief(limit=2)
        for key in "abc":
            await brief.get(key)
        assert await brief.get("c") == "c3" and await brief.get("a") == "a4"

    run(scene)
