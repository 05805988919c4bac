"""Modalities: registered once, loaded when used."""

import subprocess
import sys
from dataclasses import replace

import pytest

from moatelier.errors import Conflict, NotFound
from modalities import registry
from modalities.text.config import TEXT
from training import methods


def test_text_is_there_and_its_parts_load() -> None:
    text = registry.get("text")
    assert "text" in registry.names() and text.kinds == ("classification", "chat", "preference", "thumbs")
    assert registry.load(text.data).__name__ == "modalities.text.data"
    assert callable(registry.load(text.model))


def test_two_of_one_name_are_refused() -> None:
    registry.register(TEXT)  # the same again is no second one
    with pytest.raises(Conflict, match="'text' is registered already"):
        registry.register(replace(TEXT, data="somewhere.else"))
    assert registry.get("text") is TEXT


def test_an_unknown_modality_names_those_there_are() -> None:
    with pytest.raises(NotFound, match="Known are audio, imagetext, text, vision"):
        registry.get("smell")


@pytest.mark.parametrize("name", ["text", "vision", "audio"])
def test_every_modality_knows_its_own_rows_and_can_be_trained(name: str) -> None:
    modality = registry.get(name)
    data = registry.load(modality.data)
    assert registry.of_row({modality.content: "x", "id": "y"}) is modality
    assert registry.data_of(f'{{"{modality.content}": "x"}}\n'.encode()) is data
    assert set(modality.methods) <= set(methods.names(name))


@pytest.mark.parametrize("line", [b'{"smell": 1}', b"[1]", b"junk"])
def test_what_is_no_row_is_nobodys(line: bytes) -> None:
    with pytest.raises(ValueError):
        registry.data_of(line)


def test_looking_at_the_registry_loads_nothing() -> None:
    look = "from modalities import registry; registry.get('text')"
    code = f"import sys; {look}; sys.exit('modalities.text.data' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
