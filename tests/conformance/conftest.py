"""Fixtures of the conformance tests."""

from tests.conformance.serving import whole as whole
from tests.graphs.conftest import player as player
