"""The manual tells the truth: its links, commands, options, keys and figures exist."""

from __future__ import annotations

import dataclasses
import doctest
import io
import re
import shlex
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import click
import docutils.core
import docutils.nodes
import numpy as np
import pytest
import torch
from docutils.parsers.rst import Directive, directives

import iterreg
from iterreg.cli import iterreg as root_command
from iterreg.cli.propagate import WithPropagate, propagate
from iterreg.config import Config, load_config, preset_names
from iterreg.errors import ConfigError
from iterreg.regions.label_tables import table_names
from iterreg.samreg.variants import VARIANTS

ROOT = Path(__file__).parents[1]
FILES = [*ROOT.glob("*.rst"), *ROOT.glob("docs/*.rst"), ROOT / "benchmarks" / "README.rst"]
PAGES = sorted(page for page in FILES if not page.read_text("utf-8").startswith(".. include::"))
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.rst"]
"""Pages that speak of the present only; a changelog also names what is gone."""

OF_OTHER_PROGRAMS = {"--ml", "--user"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
SCRIPT = re.compile(r"\w+\.py\b")
FOLDERS = {".ci", "benchmarks", "docs", "iterreg", "tests"}


class OfSphinx(Directive):
    """A directive that docutils alone does not know. Sphinx checks it when the site is built."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = defaultdict(lambda: directives.unchanged)

    def run(self) -> list[docutils.nodes.Node]:
        """Keep the text of a table of contents; the rest stands for what the code says."""
        if self.name != "toctree":
            return []
        return [docutils.nodes.comment("", line, classes=["toctree"]) for line in self.content]


for name in ("toctree", "currentmodule", "autofunction", "autoclass", "click"):
    directives.register_directive(name, OfSphinx)


def each_page(path: Path) -> str:
    """A page's name for pytest."""
    return str(path.relative_to(ROOT))


@cache
def parsed(page: Path) -> tuple[docutils.nodes.document, str]:
    """A page's tree, and what docutils has to say against it."""
    complaints = io.StringIO()
    settings = {"report_level": 1, "halt_level": 5, "warning_stream": complaints}
    settings |= {"file_insertion_enabled": False, "_disable_config": True}
    tree = docutils.core.publish_doctree(
        page.read_text("utf-8"), source_path=str(page), settings_overrides=settings
    )
    return tree, complaints.getvalue()


def literals(page: Path) -> list[str]:
    """What a page sets in double backquotes."""
    return [node.astext() for node in parsed(page)[0].findall(docutils.nodes.literal)]


def row_titles(page: Path) -> list[str]:
    """What stands in the first cells of a page's tables."""
    rows = parsed(page)[0].findall(docutils.nodes.row)
    return [row.next_node(docutils.nodes.entry).astext() for row in rows]


def shell_lines(page: Path) -> Iterator[str]:
    """The command lines of a page, from its code blocks and its text."""
    blocks = parsed(page)[0].findall(docutils.nodes.literal_block)
    for text in [*(block.astext() for block in blocks), *literals(page)]:
        for line in text.replace("\\\n", " ").splitlines():
            yield from (part.strip() for part in line.split("&&"))


def words_after(program: str, page: Path) -> list[list[str]]:
    """The arguments of each call of a program."""
    lines = [shlex.split(line.split(" > ")[0]) for line in shell_lines(page) if program in line]
    return [words[1:] for words in lines if words and Path(words[0]).name == program]


def every_command(command: click.Command = root_command) -> Iterator[click.Command]:
    """A command and all below it."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from every_command(below)
    if isinstance(command, WithPropagate):
        yield propagate


def options_of(command: click.Command) -> set[str]:
    """All long and short names of a command's options, ``--help`` among them."""
    parameters = command.get_params(click.Context(command))
    return {o for p in parameters for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that some words call, and the words that are left for it."""
    command: click.Command = root_command
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        assert below is not None, f"{command.name} has no command {words[0]}"
        command, words = below, words[1:]
    if isinstance(command, WithPropagate) and words[:1] == [propagate.name]:
        command, words = propagate, words[1:]
    return command, words


def config_keys() -> set[str]:
    """Every key of the configuration: tables, and dotted names of what they hold."""
    keys = set()
    for name, hint in get_type_hints(Config).items():
        keys.add(name)
        tables = [k for k in (hint, *get_args(hint)) if dataclasses.is_dataclass(k)]
        keys |= {f"{name}.{f.name}" for table in tables for f in dataclasses.fields(table)}
    return keys


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_a_page_parses_without_complaint(page):
    assert parsed(page)[1] == ""


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_links_lead_somewhere(page):
    tree, _ = parsed(page)
    links = [node["refuri"] for node in tree.findall(docutils.nodes.reference) if "refuri" in node]
    links += [node["uri"] for node in tree.findall(docutils.nodes.image)]
    for link in links:
        if not re.match(r"[a-z]+:", link):
            assert link in MADE_BY_SPHINX or (page.parent / link.split("#")[0]).exists(), link


MADE_BY_SPHINX = {"auto_tutorial/plot_first_pair.rst": "tutorial/plot_first_pair.py"}
"""Pages of the site that are made of programs; their links are checked when it is built."""


def test_pages_made_of_programs_have_them():
    for program in MADE_BY_SPHINX.values():
        assert (ROOT / "docs" / program).is_file()


def test_each_page_is_in_the_table_of_contents():
    tree, _ = parsed(ROOT / "docs" / "index.rst")
    listed = [n.astext() for n in tree.findall(docutils.nodes.comment) if "toctree" in n["classes"]]
    names = {re.sub(r".*<(.+)>", r"\1", line) for line in listed}
    pages = {page.stem for page in (ROOT / "docs").glob("*.rst")} - {"index"}
    assert pages == names - {"auto_tutorial/index"}, "docs/index.rst lists the pages"


def test_each_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "api.rst").read_text("utf-8")
    shown = re.findall(r"^\.\. auto\w+:: iterreg\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(iterreg.__all__), "docs/api.rst shows the public names"


@pytest.mark.parametrize("page", CURRENT, ids=each_page)
def test_files_of_the_project_exist(page):
    for text in literals(page):
        path = text.split()[0]
        if path.split("/")[0] in FOLDERS and not re.search(r"\b[A-Z]+\.", path):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", CURRENT, ids=each_page)
def test_scripts_exist_and_take_the_options_shown(page):
    calls = [(ROOT, words) for words in words_after("python", page) if words[0] not in ("-m", "-c")]
    calls += [(page.parent, t.split()) for t in literals(page) if SCRIPT.match(t)]
    for folder, (name, *arguments) in calls:
        assert (folder / name).is_file(), name
        for option in OPTION.findall(" ".join(arguments)):
            assert f'"{option}"' in (folder / name).read_text("utf-8"), f"{name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_commands_exist_and_take_the_options_shown(page):
    for words in words_after("iterreg", page):
        if not words or words[0] == "COMMAND":
            continue
        command, rest = resolve(words)
        unknown = {o for o in rest if o.startswith("--")} - options_of(command)
        assert not unknown, f"iterreg {' '.join(words)}: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_options_in_the_text_exist(page):
    known = {o for command in every_command() for o in options_of(command)} | OF_OTHER_PROGRAMS
    scripts = "".join(p.read_text("utf-8") for p in (ROOT / "benchmarks").glob("*.py"))
    for text in literals(page):
        if text.startswith("--"):
            option = OPTION.match(text)
            assert option, text
            assert option[0] in known or f'"{option[0]}"' in scripts, option[0]


@pytest.mark.parametrize("page", CURRENT, ids=each_page)
def test_configuration_keys_exist(page):
    keys = config_keys()
    tables = {key.split(".")[0] for key in keys if "." in key}
    if page.name == "run-json.rst":
        tables.remove("verdict")  # there it is the table of the run
    for text in [*literals(page), *shell_lines(page)]:
        for table, key in re.findall(r"(?<![\w./-])([a-z_]+)\.([a-z_]+)(?![\w./(])", text):
            if table in tables and key != "py":
                assert f"{table}.{key}" in keys, f"{table}.{key}"


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_values_that_are_shown_are_accepted(page):
    lines = [*literals(page), *shell_lines(page)]
    shown = [re.findall(r"--set (\w+(?:\.\w+)?)=([\w.]+)", line) for line in lines]
    if page in CURRENT:
        shown += [re.findall(r"^(\w+\.\w+) = (.+)$", text) for text in lines]
    for together in shown:
        overrides = {key: value_of(value) for key, value in together if not key.isupper()}
        try:
            load_config("general", overrides)
        except ConfigError as error:
            pytest.fail(f"{overrides}: {error}")


def value_of(text: str) -> object:
    """A value as ``--set`` reads it: TOML, else a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def similarities() -> list[str]:
    """The choices for ``similarity.kind``, as the refusal of another one lists them."""
    with pytest.raises(ConfigError, match="expected one of") as refusal:
        load_config("general", {"similarity.kind": "?"})
    return re.findall(r"\w+", str(refusal.value).split("expected one of", 1)[1].split(", got")[0])


@pytest.mark.parametrize("names", [preset_names(), similarities()], ids=["presets", "similarities"])
def test_each_choice_has_a_row(names):
    assert names
    assert set(names) <= set(row_titles(ROOT / "docs" / "presets.rst"))


def test_variants_and_label_tables_are_listed():
    assert set(VARIANTS) <= set(literals(ROOT / "docs" / "samreg.rst"))
    assert set(table_names()) <= set(literals(ROOT / "docs" / "formats.rst"))


def test_each_command_is_in_the_reference():
    page = (ROOT / "docs" / "commands.rst").read_text("utf-8")
    shown = page.split(":commands: ", 1)[1].split("\n", 1)[0].split(", ")
    names = root_command.list_commands(click.Context(root_command))
    assert set(shown) == set(names) - set(preset_names()) | {"samreg"}, "docs/commands.rst"


def test_examples_of_the_reference_need_public_names_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {name: getattr(iterreg, name) for name in iterreg.__all__}
    given = {"np": np, "torch": torch, "Path": Path, **names}
    finder, report = doctest.DocTestFinder(), list[str]()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for name, value in names.items():
        for example in finder.find(value, name, globs=given):
            runner.run(example, out=report.append)
    assert runner.tries > 50
    assert report == [], "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_the_first_cell_of_a_row_stands_on_one_line(page):
    for row in parsed(page)[0].findall(docutils.nodes.row):
        cells = [entry.astext() for entry in row.findall(docutils.nodes.entry)]
        assert len(cells) < 2 or any(cells[1:]), f"{cells[0]!r} makes a row of its own"


def claims() -> list[tuple[str, str]]:
    """The rows of the README's table of claims: what it claims, and the script that measures it."""
    rows = parsed(ROOT / "README.rst")[0].findall(docutils.nodes.row)
    cells = [[entry.astext() for entry in row.findall(docutils.nodes.entry)] for row in rows]
    return [(row[1], row[0].split("/")[1].split()[0]) for row in cells if "benchmarks/" in row[0]]


def test_each_claim_of_the_readme_stands_on_a_page_that_names_its_command():
    assert len(claims()) > 5
    for claim, script in claims():
        texts = [page.read_text("utf-8") for page in CURRENT if page.name != "README.rst"]
        pages = [text for text in texts if script in text]
        for figure in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.-]*[A-Za-z])", claim):
            found = rf"(?<![\d.]){re.escape(figure)}(?!\.?\d)"
            assert any(re.search(found, text) for text in pages), f"{script}: {figure}"


def test_the_readme_is_short():
    assert len((ROOT / "README.rst").read_text("utf-8").splitlines()) <= 150


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_no_path_of_one_machine(page):
    assert not re.search(r"(?<!\w)/(work|home|tmp|root|Users)/", page.read_text("utf-8"))
