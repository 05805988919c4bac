"""The cache of frozen layers' outputs, with arithmetic in place of layers."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moatelier.errors import Cancelled
from moatelier.settings import settings
from modalities import frozen
from modalities.frozen import Layers, open_states
from store.frozen import clear, of_dataset

SIZES = (3, 1, 4, 1, 5, 9, 2, 6)
BATCHES = (range(0, 3), range(3, 6), range(6, 8))


def layers(name: str = "a", dtype: torch.dtype = torch.float32) -> Layers:
    return Layers(key={"base": name}, sizes=SIZES, width=4, dtype=dtype, batches=BATCHES)


class Count:
    """Computes vectors that depend on the batch they are computed in, as real layers' do in their last bits."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> Tensor:
        self.calls.append(list(items))
        return torch.cat([torch.full((SIZES[item], 4), item + len(items) / 1024) for item in items])


def folders(home: Path) -> list[Path]:
    return [entry for entry in (home / "frozen").iterdir() if entry.is_dir()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_items_are_computed_once_and_read_in_any_order(home: Path, dtype: torch.dtype) -> None:
    compute = Count()
    for _ in range(2):
        with open_states(layers(dtype=dtype), compute) as states:
            read = states.read([7, 0, 3])
            assert states.cached and read.dtype == dtype and read.shape == (6 + 3 + 1, 4)
            assert read[:, 0].tolist() == [
                *[torch.tensor(7 + 2 / 1024).to(dtype).item()] * 6,
                *[torch.tensor(0 + 3 / 1024).to(dtype).item()] * 3,
                torch.tensor(3 + 3 / 1024).to(dtype).item(),
            ]
    assert compute.calls == [list(batch) for batch in BATCHES]


def test_another_key_or_another_cut_is_another_cache(home: Path) -> None:
    other_cut = Layers(key={"base": "a"}, sizes=SIZES, width=4, dtype=torch.float32, batches=(range(0, 8),))
    for asked in (layers("a"), layers("b"), layers("a", torch.bfloat16), other_cut):
        open_states(asked, Count()).close()
    assert len(folders(home)) == 4


def test_what_was_stopped_goes_on_after_the_last_whole_batch(home: Path) -> None:
    def stop(done: int, batches: int) -> None:
        if done == 2:
            raise Cancelled("stop")

    with open_states(layers("undisturbed"), Count()) as states:
        expected = states.read(range(8))
    first, second = Count(), Count()
    with pytest.raises(Cancelled):
        open_states(layers(), first, stop)
    (folder,) = [entry for entry in folders(home) if entry.name == layers().name]
    with (folder / "states.bin").open("ab") as file:
        file.write(b"half a batch")
    with open_states(layers(), second) as states:
        assert torch.equal(states.read(range(8)), expected)
    assert second.calls == [[6, 7]]


def test_a_kill_inside_a_write_leaves_the_same_bits(home: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom tests.modalities.test_frozen import *\n"
        "compute = Count()\n"
        "def kill(items):\n"
        "    if len(compute.calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return compute(items)\n"
        "open_states(layers(), kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MOATELIER_HOME": str(home)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = Count()
    with open_states(layers(), resumed) as states, open_states(layers("other"), Count()) as undisturbed:
        assert torch.equal(states.read(range(8)), undisturbed.read(range(8)))
    assert resumed.calls == [[6, 7]]


def test_a_file_that_lost_bytes_is_filled_again(home: Path) -> None:
    open_states(layers(), Count()).close()
    os.truncate(folders(home)[0] / "states.bin", 100)
    again = Count()
    with open_states(layers(), again) as states:
        assert states.read([7]).shape == (6, 4)
    assert len(again.calls) == 3


def limit(monkeypatch: pytest.MonkeyPatch, caches: float) -> None:
    size = layers().bytes
    monkeypatch.setenv("MOATELIER_FROZEN_CACHE_GB", str(caches * size / 1e9))
    settings.cache_clear()


def test_the_oldest_unused_cache_makes_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 2.5)
    for age, name in enumerate(("used", "old", "young")):
        states = open_states(layers(name), Count())
        os.utime(home / "frozen" / layers(name).name / "used", (age, age))
        if name != "used":
            states.close()
        else:
            in_use = states
    assert {folder.name for folder in folders(home)} == {layers("used").name, layers("young").name}
    assert in_use.read([1]).shape == (1, 4)
    in_use.close()


def test_what_cannot_fit_is_computed_when_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 0.5)
    compute = Count()
    with open_states(layers(), compute) as states:
        assert not states.cached and compute.calls == []
        assert states.read([2, 1])[:, 0].tolist() == [2 + 2 / 1024] * 4 + [1 + 2 / 1024]
    assert folders(home) == []


def test_a_cache_in_use_is_not_removed_for_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 1.5)
    with open_states(layers("a"), Count()) as first, open_states(layers("b"), Count()) as second:
        assert first.cached and not second.cached
        assert torch.equal(first.read([1]), torch.full((1, 4), 1 + 3 / 1024))


def test_a_short_disk_means_computing_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with open_states(layers("a"), Count()) as states:
            assert not states.cached
    assert folders(home) == []
    monkeypatch.setattr(frozen, "_DISK_MARGIN", 2**62)
    with open_states(layers("b"), Count()) as states:
        assert not states.cached


def test_two_that_want_the_same_fill_it_once(home: Path) -> None:
    code = (
        "import sys, time\nfrom tests.modalities.test_frozen import *\n"
        "compute = Count()\n"
        "def slow(items):\n    print('filling', flush=True); time.sleep(0.5); return compute(items)\n"
        "open_states(layers(), slow).close()\n"
    )
    environment = {**os.environ, "MOATELIER_HOME": str(home)}
    other = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"filling\n"
    waited: list[int] = []
    late = Count()
    with open_states(layers(), late, lambda done, batches: waited.append(done)) as states:
        assert states.cached and late.calls == [] and waited
    other.communicate()
    assert time.monotonic() and other.returncode == 0


def test_a_dataset_takes_its_folders_with_it_but_those_that_another_shares_or_somebody_reads(home: Path) -> None:
    for dataset, names in {"d1": "ab", "d2": "bc"}.items():
        with of_dataset(dataset):
            for name in names:
                open_states(layers(name), Count()).close()
    clear(["d1"])
    assert sorted(folder.name for folder in folders(home)) == sorted(layers(name).name for name in "bc")
    with open_states(layers("c"), Count()) as states:
        clear(["d2"])
        assert [folder.name for folder in folders(home)] == [layers("c").name] and states.read([0]).shape == (3, 4)
    clear([])
    assert folders(home) == []
