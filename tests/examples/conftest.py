import pytest

from examples.making.espeak import find_library
from moatelier.errors import ModelUnavailable


@pytest.fixture(scope="session")
def spoken() -> None:
    """For tests that need espeak-ng."""
    try:
        find_library()
    except ModelUnavailable as error:
        pytest.skip(str(error))
