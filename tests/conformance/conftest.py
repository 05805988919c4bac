"""Fixtures of the conformance tests."""

from tests.conformance.answering import answering as answering
from tests.conformance.answering import talking as talking
from tests.conformance.recording import recorded as recorded
from tests.conformance.serving import whole as whole
from tests.graphs.conftest import player as player
