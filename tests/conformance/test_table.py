"""docs/conformance.md is whole and true."""

import ast
import importlib.util
from pathlib import Path

import openai
import pytest

from tests.conformance import table
from tests.conformance.recording import methods, page_rows

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")
def test_the_page_has_every_method_of_the_packages_and_no_other() -> None:
    assert openai.__version__.startswith("3."), "the page is made with the installed one"
    assert set(page_rows()) == {key.rpartition(" ")[0] for key, _, _ in methods()}


def test_every_row_is_shown_by_a_test_that_is_there() -> None:
    known = {
        f"{path.name}::{node.name}"
        for path in HERE.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    for method, cells in page_rows().items():
        shown = cells[-1].strip("`")
        assert shown in known or (cells[0] == "not run" and shown == "-"), method


@pytest.mark.slow
def test_openai_2_is_answered_as_well(tmp_path: Path) -> None:
    """In an environment of its own, from the package index."""
    table.install_2(tmp_path)
    status, notes, said = table.run(*table.openai_files(), first=tmp_path)
    assert status == 0, said[-5000:]
    assert notes["openai chat.completions.create sync"]["result"] == "works"
    version = next(path.name for path in tmp_path.glob("openai-*.dist-info"))
    assert version.startswith("openai-2.")
