"""A name that is too long for the file system is refused as a missing file, at every option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from iterreg.cli import iterreg
from iterreg.errors import ExitCode

PAIR = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
LONG = "n" * 300
FILES_BY_NAME = ("preset", "label_table")
"""Options that take a name or a file."""

PARTNERS = {
    "fixed_labels": "moving_labels",
    "moving_labels": "fixed_labels",
    "fixed_landmarks": "moving_landmarks",
    "moving_landmarks": "fixed_landmarks",
    "fixed": "moving",
    "moving": "fixed",
}
SUFFIX = {"out": "", "preset": ".toml", "label_table": ".json", "roi_pairs": ".json"}
GOOD = {"out": "out", "preset": "general", "transform": "t.tfm", "points": "p.csv"}
PICTURE = str(PAIR / "fixed.nii.gz")


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name)


def command_of(words: tuple[str, ...]) -> click.Command:
    """The command of these words."""
    found: click.Command = iterreg
    for word in words:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    return found


def takes_a_file(parameter: click.Parameter) -> bool:
    """Whether a parameter names a file or a folder."""
    return isinstance(parameter.type, click.Path) or parameter.name in FILES_BY_NAME


def spelled(parameter: click.Parameter, value: str) -> list[str]:
    """A parameter with its value, as words of the command line."""
    return [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]


CASES = [
    (words, parameter.name)
    for words in commands(iterreg)
    if words[0] in ("register", "samreg") or len(words) > 1 or "preset" not in words
    for parameter in command_of(words).params
    if takes_a_file(parameter) and words[0] not in ("abdomen", "brain", "cardiac", "lung")
]


@pytest.mark.parametrize(
    ("words", "name"), CASES, ids=[f"{' '.join(words)} {name}" for words, name in CASES]
)
def test_a_name_of_300_letters_is_refused(
    words: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("x,y,z\n1,2,3\n")
    parameters = {p.name: p for p in command_of(words).params}
    needed = {n for n, p in parameters.items() if p.required} | {name}
    needed |= {PARTNERS[n] for n in needed if PARTNERS.get(n) in parameters}
    if words == ("apply",):
        needed |= set() if {"image", "labels", "points"} & needed else {"image"}
        needed |= {"reference"}
    if words == ("evaluate",) and not {"fixed_labels", "known_field"} & needed:
        needed |= {"known_field"}
    line = list(words)
    for one in sorted(needed, key=lambda n: list(parameters).index(n)):
        value = GOOD.get(one, PICTURE)
        if one == name:
            value = LONG + SUFFIX.get(one, ".nii.gz" if one != "json_path" else ".json")
        line += spelled(parameters[one], value)
    result = CliRunner().invoke(iterreg, line)
    said = [text for text in result.stderr.splitlines() if " %  " not in text]
    assert result.exit_code not in (ExitCode.OK, ExitCode.ERROR), result.output
    assert len(said) == 1 or result.exit_code == ExitCode.USAGE, said
    assert "bug in iterreg" not in result.output
    assert not isinstance(result.exception, OSError)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p.csv"]
