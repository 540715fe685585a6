"""Imports point one way, and heavy packages are loaded only where they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import iterreg

PACKAGE = Path(iterreg.__file__).parent
ROOT = Path(__file__).parents[1]

ROOMS = (
    "errors",
    "versions",
    "texts",
    "names",
    "arguments",
    "folders",
    "processes",
    "tables",
    "plugins",
    "preset_folders",
    "progress",
    "scanner",
    "config",
    "to_device",
    "geometry",
    "neighbourhood",
    "labels",
    "image",
    "index_maps",
    "sampling",
    "displacement",
    "inverse",
    "kernels",
    "features",
    "energy",
    "metrics",
    "verdict",
    "optimize",
    "partition",
    "rigid_motion",
    "devices",
    "memory",
    "atomic",
    "io",
    "formats",
    "applying",
    "provenance",
    "regions",
    "registry",
    "samreg",
    "figures",
    "phantom",
    "landmarks",
    "evaluation",
    "registration",
    "report",
    "inputs",
    "image_size",
    "scale",
    "tensors",
    "pair_features",
    "pair",
    "expected_error",
    "outputs",
    "saved_runs",
    "cohort",
    "motion",
    "clinic",
    "learn2reg",
    "cli",
    "__main__",
)
"""From the ground up: a module imports from its own room and from those before it."""

CORE = ROOMS[: ROOMS.index("optimize") + 1]
"""These run on a machine that has torch and NumPy alone."""

LAZY_IN_CORE = {"metrics": {"scipy", "surface_distance"}, "folders": {"platformdirs"}}
"""What a room of the core may import inside a function, with a fallback or a clear refusal."""

OWN = {"cli": {"click", "rich"}}
"""Packages that one room alone may use, at the top of its modules too (rich inside functions)."""


class Import(NamedTuple):
    """One import statement's target."""

    module: str
    line: int
    lazy: bool
    typing_only: bool


def modules() -> list[Path]:
    """Every module of the package but its front door, which loads all rooms lazily by design."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    """The room that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[Import]:
    """All imports of a file: at the top, inside functions, and for the type checker."""

    def walk(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, lazy, typing_only)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative imports hide their direction"
                module = child.module or ""
                if module == "iterreg":
                    for alias in child.names:
                        yield Import(f"iterreg.{alias.name}", child.lineno, lazy, typing_only)
                else:
                    yield Import(module, child.lineno, lazy, typing_only)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, lazy, True)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from walk(child, True, typing_only)
            else:
                yield from walk(child, lazy, typing_only)

    yield from walk(ast.parse(path.read_text("utf-8")), False, False)


def each_file(path: Path) -> str:
    """A file's name for pytest."""
    return str(path.relative_to(PACKAGE))


def test_every_room_is_on_the_plan():
    found = {room(p) for p in modules()}
    assert found <= set(ROOMS), f"give {found - set(ROOMS)} a place in the order"


@pytest.mark.parametrize("path", modules(), ids=each_file)
def test_imports_point_one_way(path):
    here = ROOMS.index(room(path))
    for found in imports(path):
        parts = found.module.split(".")
        if parts[0] == "iterreg":
            assert len(parts) > 1, f"{path}:{found.line}: imports the front door"
            there = ROOMS.index(parts[1])
            assert there <= here, f"{path}:{found.line}: {room(path)} imports {parts[1]}, above it"


@pytest.mark.parametrize("path", modules(), ids=each_file)
def test_heavy_packages_stay_where_they_belong(path):
    mine = room(path)
    for found in imports(path):
        package = found.module.split(".")[0]
        where = f"{path}:{found.line}: {package}"
        if found.typing_only or package in ("iterreg", *sys.stdlib_module_names):
            continue
        if package in ("click", "rich"):
            assert mine == "cli", f"{where} belongs to the commands"
            assert found.lazy or package == "click", f"{where} at the top slows every command"
        elif package in ("torch", "numpy"):
            assert found.lazy or mine not in ("errors", "config", "cli"), f"{where} slows --help"
        elif package == "triton":
            assert each_file(path).startswith("kernels/cuda/"), f"{where} belongs to kernels/cuda/"
        elif package == "numba":
            assert each_file(path).startswith("kernels/cpu/"), f"{where} belongs to kernels/cpu/"
        else:
            assert found.lazy, f"{where} at the top of a module"
            allowed = mine not in CORE or package in LAZY_IN_CORE.get(mine, set())
            assert allowed, f"{where} in the core, which needs torch and NumPy alone"


def test_every_package_that_is_imported_is_declared():
    text = (ROOT / "setup.cfg").read_text("utf-8").lower().replace("-", "_")
    # Triton comes with torch, where it runs at all.
    optional = {"totalsegmentator", "triton"}
    distribution = {"cv2": "opencv_python", "pil": "pillow"}
    for path in modules():
        for found in imports(path):
            package = found.module.split(".")[0]
            if package not in ("iterreg", *sys.stdlib_module_names, *optional):
                name = distribution.get(package.lower(), package.lower())
                assert name in text, f"{path}:{found.line}: {package} is not installed"


def test_one_module_calls_grid_sample():
    users = [each_file(p) for p in modules() if "grid_sample(" in p.read_text("utf-8")]
    assert users == ["sampling.py"]


def test_help_loads_no_torch():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "iterreg", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    loaded = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert "Usage: iterreg" in result.stdout
    assert not loaded & {"torch", "numpy", "SimpleITK", "numba", "scipy", "matplotlib", "rich"}


def test_the_core_runs_with_torch_and_numpy_alone():
    code = (
        "import sys\n"
        "for name in ('SimpleITK', 'scipy', 'nibabel', 'matplotlib', 'click', 'rich', 'numba',\n"
        "             'surface_distance', 'cv2'):\n"
        "    sys.modules[name] = None\n"
        + "".join(f"import iterreg.{name}\n" for name in (*CORE, "partition", "devices"))
        + "import iterreg.optimize.register\n"
    )
    environment = {"ITERREG_COMPILED": "0", "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
