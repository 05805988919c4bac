"""The documents tell the truth: what they name can be typed, set, opened and followed."""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from api.app import create_app
from moatelier.cli import TaskGroup, app
from moatelier.contracts import Layer, read_recipe
from moatelier.errors import MoatelierError
from moatelier.settings import Settings
from modalities import pull
from store import datasets
from tests import fakes
from tests.graphs.conftest import Player
from tests.graphs.conftest import player as player
from tests.moatelier.conftest import Command
from tests.moatelier.conftest import command as command

ROOT = Path(__file__).resolve().parent.parent
ADRS = sorted((ROOT / "docs" / "adr").glob("*"))
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/guide.md", "docs/log.md", "docs/threat-model.md")
PAGES = [ROOT / name for name in NAMES] + ADRS
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
UNDOCUMENTED = {"fault"}
"""For tests only."""
FOLDERS = [path.name for path in ROOT.iterdir() if path.is_dir() and (path.name[0] != "." or path.name == ".ci")]


def code(text: str) -> Iterator[str]:
    """What a page shows as code of the shell: indented lines, without comments, and words between backticks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("    "):
            yield re.sub(r"\s+#.*", "", line).strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


def shown(name: str) -> list[str]:
    """The code of a page."""
    return list(code((ROOT / name).read_text(encoding="utf-8")))


def commands() -> list[list[str]]:
    """Every `moatelier ...` of README and guide, as words after the first; `a | b ID` are two, `[--x]` is typed."""
    found: list[list[str]] = []
    for line in (line for name in ("README.md", "docs/guide.md") for line in shown(name)):
        if not re.match(r"moatelier( |$)", line):
            continue
        plain = re.sub(r"<[^>]*>", "THING", line.removeprefix("moatelier")).replace("[", "").replace("]", "")
        first, *others = (shlex.split(part) for part in re.split(r" \| ", plain))
        found += [first, *([first[0], *other] for other in others)]
    return found


def test_the_commands_are_found() -> None:
    """Guards the reading of the pages: without it a change of their form would leave nothing to test."""
    assert ["task", "cancel", "TASK"] in commands() and ["models", "pull", "ID"] in commands()
    assert ["chat", "-m", "THING", "My parcel is broken"] in commands()


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while (known := getattr(command, "commands", None)) and rest:
        if rest[0] in known:
            command = known[rest.pop(0)]
        else:  # `task "words"` is `task start "words"`
            assert isinstance(command, TaskGroup), f"moatelier has no command {rest[0]}"
            command = known["start"]
    if command.name == "models":
        for verb in ("_list", "_show", "_pull"):
            monkeypatch.setattr(pull, verb, lambda *_: None)
        assert pull.main(rest) == 0
    elif not known and (rest or not any(parameter.required for parameter in command.params)):
        command.make_context(command.name, rest)  # raises a usage error


def test_settings_and_documents_name_the_same() -> None:
    fields = {f"MOATELIER_{name.upper()}" for name in Settings.model_fields}
    named = {name for page in PAGES for name in re.findall(r"MOATELIER_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))}
    assert named == fields - {f"MOATELIER_{name.upper()}" for name in UNDOCUMENTED}


def test_the_table_of_settings_is_whole_and_states_the_defaults() -> None:
    table = dict(re.findall(r"^\| `MOATELIER_(\w+)` \| (.*?) \|", GUIDE, re.M))
    assert set(table) == {name.upper() for name in Settings.model_fields} - {"FAULT", "BENCH_DATA"}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, str | int | float) and name.upper() in table:
            default = field.default if isinstance(field.default, str) else f"{field.default:g}"
            assert table[name.upper()] == f"`{default}`", name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_named_file_or_folder_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w./>~-])((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*)", text)
    linked = [target for target in re.findall(r"\]\(([^)#]+)", text)]
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists()]
    missing += [target for target in linked if not (page.parent / target).exists()]
    missing += [name for name in re.findall(r"`([A-Za-z]+\.(?:py|toml|md))`", text) if not _anywhere(name)]
    assert not missing


def _anywhere(name: str) -> bool:
    """A file without its folder: in the root, or what a report holds."""
    return (ROOT / name).exists() or (ROOT / "evals" / "templates" / f"{name}.j2").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_named_module_exists(page: Path) -> None:
    modules = re.findall(r"\bpython -m ([\w.]+\w)", page.read_text(encoding="utf-8"))
    assert not [name for name in modules if importlib.util.find_spec(name) is None]


def test_make_verbs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    pages = [line for page in PAGES for line in code(page.read_text(encoding="utf-8"))]
    lines = [match[1] for line in pages if (match := re.fullmatch(r"(?:[A-Z_]+=\S+ )?make((?: [a-z-]+)+)", line))]
    verbs = {verb for line in lines for verb in line.split()}
    assert {"demo", "test", "bench"} <= verbs <= targets
    assert set(makefile.split(".PHONY:")[1].splitlines()[0].split()) == targets
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [verb for verb in targets if f"make {verb}" not in contributing], "CONTRIBUTING lists every verb"


def _slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_guides_contents_are_its_headings() -> None:
    headings = re.findall(r"^## (.+)$", GUIDE, re.M)
    assert re.findall(r"^- \[(.+)\]\(#(.+)\)$", GUIDE, re.M) == [(heading, _slug(heading)) for heading in headings]
    anchors = {_slug(heading) for heading in re.findall(r"^#+ (.+)$", GUIDE, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= anchors


def test_the_recipe_in_the_guide_is_one() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.S | re.M)
    read = read_recipe(text)
    assert {proposer.kinds[0] for proposer in read.layers[0].proposers} == {
        "auto",
        "adapter",
        "base",
        "upstream",
        "recipe",
    }
    fields = set(Layer.model_fields) - {"proposers", "quorum"}
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \| ", GUIDE, re.M))
    told = {name: table[name] for name in fields}
    defaults = {name: Layer.model_fields[name].default for name in fields}
    assert told == {"patience": "1", "deadline_s": "60", "residual": "false", "exit_at": "none"}
    assert defaults == {"patience": 1.0, "deadline_s": 60.0, "residual": False, "exit_at": None}


def test_adrs_are_numbered_without_a_gap() -> None:
    for number, path in enumerate(ADRS, start=1):
        assert path.name.startswith(f"{number:04}-") and path.suffix == ".md"
        assert path.read_text(encoding="utf-8").startswith(f"# {number:04}: ")


def _family(root: type[MoatelierError]) -> Iterator[type[MoatelierError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


def test_the_table_of_errors_is_the_tree() -> None:
    tree = {(kind.code, str(kind.status)) for kind in _family(MoatelierError) if kind.__module__ == "moatelier.errors"}
    assert set(re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", GUIDE, re.M)) == tree


def test_the_routes_in_the_guide_are_served() -> None:
    served = create_app().openapi()["paths"]
    rows = re.findall(r"^\| (`/.*?) \| (.*)\|$", GUIDE, re.M)
    named = [name for row in rows for cell in row for name in re.findall(r"`(/[a-z][^`]*)`", cell)]
    assert len(named) > 10
    endings = {"/stream", "/wait"}
    assert not [name for name in named if name not in served and name not in endings]
    assert not [ending for ending in endings if f"/threads/{{thread_id}}/runs{ending}" not in served]


def _example(page: str, **changes: str) -> str:
    [block] = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)
    for old, new in changes.items():
        assert old in PLACEHOLDERS and PLACEHOLDERS[old] in block
        block = block.replace(PLACEHOLDERS[old], new)
    return str(block)


PLACEHOLDERS = {"url": "http://127.0.0.1:8321", "key": "mo-...", "file": "file-...", "model": "ft:..."}


def test_the_python_examples_run(
    command: Command, player: Player, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both as they stand, but for address, key and ids: a task from the guide, its model asked as the README does."""
    url = json.loads((home / "service.json").read_text())["url"]
    key = (home / "keys" / "admin.key").read_text()
    file = player.upload(fakes.support_csv(tmp_path / "support.csv"))
    assert datasets.get_file("default", file).name == "support.csv"
    exec(compile(_example("docs/guide.md", url=url, key=key, file=file), "guide.md", "exec"), {})
    assert "awaiting_approval" in capsys.readouterr().out
    [adapter] = json.loads(command("adapters", "list", "--json").stdout)
    exec(compile(_example("README.md", url=url, key=key, model=adapter["model_id"]), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
