"""The house rules that a reader relies on: short files, short signatures, no circle of imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_imports import PACKAGE, each_file, imports, modules

LONGEST_FILE = 300
EXCUSE = "Longer than 300 lines because"
"""A module that has to be long says so in its docstring, with the reason."""

ALGORITHM = ("kernels", "features", "energy", "metrics", "optimize", "inverse")
MOST_PARAMETERS = 6
COMPILED = ("kernels/cpu/", "kernels/cuda/programs/")
"""Compiled loops take arrays one by one: the compiler knows no dataclass."""


@pytest.mark.parametrize("path", modules(), ids=each_file)
def test_a_file_can_be_held_in_mind(path):
    text = path.read_text("utf-8")
    excuse = ast.get_docstring(ast.parse(text)) or ""
    assert len(text.splitlines()) <= LONGEST_FILE or EXCUSE in excuse


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Every function of a file, methods included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize(
    "path", [p for p in modules() if each_file(p).startswith(ALGORITHM)], ids=each_file
)
def test_signatures_of_the_algorithm_are_short(path):
    if each_file(path).startswith(COMPILED):
        pytest.skip("compiled loops take arrays one by one")
    for function in functions(path):
        names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        assert len(names) <= MOST_PARAMETERS, f"{function.name}({', '.join(names)})"


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circle_of_imports():
    names = {module_name(path) for path in modules()}
    edges = {}
    for path in modules():
        here = module_name(path)
        found = (f.module for f in imports(path) if not (f.lazy or f.typing_only))
        edges[here] = {m for m in found if m in names and m != here}
    order: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in order:
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            order.append(name)

    for name in sorted(names):
        visit(name, ())
    assert set(order) == names


@pytest.mark.parametrize("path", modules(), ids=each_file)
def test_one_module_parses_json_and_toml(path):
    if path == PACKAGE / "texts.py":
        return
    assert "tomllib" not in {found.module for found in imports(path)}
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    assert not {"json.loads", "json.load"} & {ast.unparse(call.func) for call in calls}


NEVER_RAISING = {"exists": "os.path.exists", "is_file": "os.path.isfile", "is_dir": "os.path.isdir"}
ZIP_MEMBER = "m.is_dir()"
"""The member of a zip, not a path."""


@pytest.mark.parametrize("path", modules(), ids=each_file)
def test_whether_a_file_exists_is_asked_without_an_error(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            text = ast.unparse(node)
            better = NEVER_RAISING.get(node.func.attr)
            known = text == ZIP_MEMBER or text.startswith("os.path")
            assert better is None or known, f"{text}: raises for a name that is too long: {better}"
