import pytest

from moatelier.settings import settings


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine two threads wait for each other at every operation of a tiny model.
    monkeypatch.setenv("MOATELIER_THREADS", "1")
    settings.cache_clear()
