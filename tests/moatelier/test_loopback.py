import pytest

from moatelier.loopback import is_loopback


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8321", "http://[::1]:8321/v1", "http://localhost", "http://127.9.9.9"]
)
def test_this_machine(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:8321", "https://models.example.com/v1", "http://[fe80::1]", "nonsense"]
)
def test_another_machine(url: str) -> None:
    assert not is_loopback(url)
