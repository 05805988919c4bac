"""Fixtures of the vision tests: tiny random models, pulled."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moatelier.settings import settings
from modalities import pull
from tests.modalities.packs import catalogue_file

Pulled = Callable[..., str]


@pytest.fixture
def pulled(home: Path, monkeypatch: pytest.MonkeyPatch) -> Pulled:
    """Pull folders as models: `pulled(name=(folder, kind, conversion), ...)`; returns the first name."""

    def make(**models: tuple[Path, str, str]) -> str:
        entries = [
            {"id": name, "kind": kind, "convert": convert, "sources": [{"type": "path", "path": str(folder)}]}
            for name, (folder, kind, convert) in models.items()
        ]
        monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "vision.yaml", *entries)))
        settings.cache_clear()
        for name in models:
            pull.pull(name)
        return next(iter(models))

    return make
