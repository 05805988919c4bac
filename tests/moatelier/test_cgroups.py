"""Cores and memory as control groups allow them, on made-up trees of both versions."""

from pathlib import Path

import pytest

from moatelier import cgroups


def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str]) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path / "root")
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "own")


def test_version_2_the_tightest_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "a/cpu.max": "150000 100000\n",
        "a/b/cpu.max": "max 100000\n",
        "a/memory.max": "1000\n",
        "a/memory.current": "700\n",
        "a/memory.stat": "anon 600\ninactive_file 50\n",
        "a/b/memory.max": "max\n",
        "a/b/memory.current": "1\n",
    }
    tree(tmp_path, monkeypatch, "0::/a/b\n", files)
    assert (cgroups.core_limit(), cgroups.memory_left()) == (1.5, 350)


def test_version_1_and_a_container_that_sees_only_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpu/cpu.cfs_quota_us": "50000\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": "1000\n",
        "memory/memory.usage_in_bytes": "1200\n",
        "memory/memory.stat": "cache 1\n",
        "memory/here/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/here/memory.usage_in_bytes": "5\n",
    }
    tree(tmp_path, monkeypatch, "4:memory:/here\n1:cpu,cpuacct:/docker/0123\n0::/\n", files)
    assert (cgroups.core_limit(), cgroups.memory_left()) == (0.5, 0)


def test_without_limits_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, monkeypatch, "1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"})
    assert cgroups.core_limit() is None and cgroups.memory_left() is None
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "missing")
    assert cgroups.core_limit() is None and cgroups.memory_left() is None
