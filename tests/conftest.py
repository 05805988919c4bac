"""Fixtures shared by all tests. Nothing here needs the network, a pack or a GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moatelier.settings import settings
from store import db


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's Hugging Face folder, made once a session."""
    from tests import fakes  # noqa: PLC0415  (imports torch; most tests do without)

    return fakes.tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh data directory with a migrated store, and settings that point at it."""
    monkeypatch.setenv("MOATELIER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOATELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOATELIER_THREADS", "1")  # two test workers share two cores
    settings.cache_clear()
    (tmp_path / "home").mkdir()
    db.migrate()
    yield tmp_path / "home"
    db.dispose()
    settings.cache_clear()


@pytest.fixture
def tiny(home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The catalogue id of the tiny model, pulled and set as the base."""
    from modalities import pull  # noqa: PLC0415
    from tests import fakes  # noqa: PLC0415

    monkeypatch.setenv("MOATELIER_CATALOGUE", str(fakes.tiny_catalogue(home / "catalogue.yaml", tiny_folder)))
    monkeypatch.setenv("MOATELIER_BASE", "tiny")
    settings.cache_clear()
    pull.pull("tiny")
    return "tiny"
