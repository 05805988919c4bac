"""Adapters by name: verified, loaded, evicted when their memory is needed, read again at their next use."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from moatelier.contracts import AdapterManifest
from moatelier.errors import Conflict, NotFound, ResourceExhausted
from serving.memory import Memory
from serving.metrics import SWAPS


class Weights(Protocol):
    """What an engine needs to know of an adapter's weights, of whatever method."""

    @property
    def size(self) -> int:
        """Bytes that they take, with what passes make of them."""

    @property
    def first_layer(self) -> int:
        """The lowest layer that they change."""

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens that activate the adapter; empty when it is always active."""


W = TypeVar("W", bound=Weights)
W_co = TypeVar("W_co", bound=Weights, covariant=True)


class Read(Protocol[W_co]):
    """Verifies a bundle, every byte of it, and reads its weights."""

    def __call__(self, folder: Path) -> tuple[AdapterManifest, W_co]:
        """Raises what a bundle that must not be served deserves."""
        ...


@dataclass(eq=False)
class Loaded(Generic[W]):
    """An adapter that requests may name, or that answers in the making still need."""

    name: str
    path: Path
    manifest: AdapterManifest
    digest: str
    first_layer: int
    invocation: tuple[int, ...]
    weights: W | None = field(repr=False)
    """None after an eviction, until the next use."""
    users: int = 0
    """Answers in the making, waiting ones too."""
    size: int = 0
    """Of its weights, in bytes."""
    retired: bool = False
    """Unloaded by name; goes when its last user is done."""
    pinned: bool = False


class Adapters(Generic[W]):
    """The adapters of one base.

    Args:
        memory: Holds their bytes.
        read: See `Read`.
        dropped: Called when an adapter's weights have left memory.
        check: Called when an adapter is new; what it raises refuses the adapter.
    """

    def __init__(
        self,
        memory: Memory,
        read: Read[W],
        dropped: Callable[[Loaded[W]], None],
        check: Callable[[Loaded[W]], None] = lambda _: None,
    ) -> None:
        self._memory, self._read, self._dropped, self._check = memory, read, dropped, check
        self._named: dict[str, Loaded[W]] = {}

    @property
    def manifests(self) -> dict[str, AdapterManifest]:
        """By name, in the order of loading."""
        return {name: loaded.manifest for name, loaded in self._named.items()}

    def all(self) -> tuple[Loaded[W], ...]:
        """What requests may name, in the order of loading."""
        return tuple(self._named.values())

    def get(self, name: str) -> Loaded[W]:
        """The adapter of this name.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        if name not in self._named:
            raise NotFound(f"No adapter `{name}` is loaded.", where="model", remedy="Load it first.")
        return self._named[name]

    def add(self, name: str, path: Path, pinned: bool = False) -> Loaded[W]:
        """Verify a bundle and give it a name; a second call with the same bundle changes nothing but its pin.

        Raises:
            Conflict: Another bundle has this name.
            ResourceExhausted: Memory has no room for it.
        """
        manifest, weights = self._read(path)
        known = self._named.get(name)
        if known and known.digest != manifest.digest:
            raise Conflict(f"Another bundle is loaded as `{name}`.", where="lora_name", remedy="Unload it first.")
        loaded = known or Loaded(
            name, path, manifest, manifest.digest, weights.first_layer, weights.invocation, weights=None
        )
        if known is None:
            self._keep(loaded, weights)
            self._named[name] = loaded
            SWAPS.labels("loaded").inc()
            try:
                self._check(loaded)
            except BaseException:  # whatever went wrong, nobody may be answered by what was not checked
                self.remove(name)
                raise
        loaded.path = path  # where it was before may be gone
        if pinned and not loaded.pinned:
            self.hold(loaded)
            loaded.pinned = True
        return loaded

    def renew(self, name: str, path: Path) -> None:
        """Verify a bundle and let a name stand for it from now on; unlike with `add` it may change nothing yet.

        Raises:
            ResourceExhausted: Memory has no room for it.
        """
        manifest, weights = self._read(path)
        if name in self._named:
            self.remove(name)
        loaded: Loaded[W] = Loaded(
            name, path, manifest, manifest.digest, weights.first_layer, weights.invocation, weights=None
        )
        self._keep(loaded, weights)
        self._named[name] = loaded

    def remove(self, name: str) -> None:
        """Forget an adapter's name now, and its weights when no answer needs them any more.

        Raises:
            NotFound: No adapter of this name is loaded.
        """
        loaded = self.get(name)
        del self._named[name]
        if loaded.pinned:
            self._memory.release(loaded)
        loaded.retired = True
        self._drop_unused(loaded)

    def use(self, loaded: Loaded[W]) -> None:
        """One more answer needs it; undone by `done`."""
        loaded.users += 1

    def done(self, loaded: Loaded[W]) -> None:
        """One answer less needs it."""
        loaded.users -= 1
        self._drop_unused(loaded)

    def hold(self, loaded: Loaded[W]) -> W:
        """Have the weights in memory and keep them there until `release`.

        Raises:
            ResourceExhausted: Memory has no room for them now.
            MoatelierError: The bundle is gone or was changed since it was loaded.
        """
        if loaded.weights is None:
            if not self._memory.fits(loaded.size):  # reading a bundle takes long, so not in vain
                raise _no_room(loaded)
            self._keep(loaded, self._read(loaded.path)[1])
            SWAPS.labels("read again").inc()
        self._memory.hold(loaded)
        assert loaded.weights is not None
        return loaded.weights

    def release(self, loaded: Loaded[W]) -> None:
        """Undo one `hold`: the weights may be evicted."""
        self._memory.release(loaded)

    def _keep(self, loaded: Loaded[W], weights: W) -> None:
        def drop() -> None:
            loaded.weights = None
            SWAPS.labels("evicted").inc()
            self._dropped(loaded)

        loaded.size = weights.size
        if not self._memory.keep(loaded, loaded.size, drop):
            raise _no_room(loaded)
        loaded.weights = weights

    def _drop_unused(self, loaded: Loaded[W]) -> None:
        if loaded.retired and loaded.users == 0 and loaded.weights is not None:
            self._memory.forget(loaded)
            loaded.weights = None
            self._dropped(loaded)


def _no_room(loaded: Loaded[Any]) -> ResourceExhausted:
    return ResourceExhausted(
        f"The engine's memory has no room for the adapter's {loaded.size:,} bytes.",
        where=loaded.name,
        remedy="Unload or unpin adapters, or raise MOATELIER_ENGINE_MEMORY_GB.",
    )
