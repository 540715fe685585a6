"""The public names are exactly what is promised."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import iterreg
from iterreg.errors import ExitCode, IterregError
from iterreg.versions import own_version

ROOT = Path(__file__).parents[1]

PROMISED = {
    "ConeBeam",
    "Config",
    "DisplacementField",
    "ExitCode",
    "Grid",
    "Image",
    "Inverse",
    "InversePoints",
    "IterregError",
    "LabelMap",
    "LabelTable",
    "Mask",
    "Measures",
    "Phantom",
    "Points",
    "Progress",
    "Registration",
    "RigidMotion",
    "RoiPair",
    "Evidence",
    "Reason",
    "Status",
    "Verdict",
    "Transform",
    "evaluate",
    "expected_error_mm",
    "load_config",
    "load_label_table",
    "load_run",
    "make_phantom",
    "match_rois",
    "optimize_pair",
    "preset_names",
    "propagate_labels",
    "read_image",
    "read_label_map",
    "read_points",
    "read_transform",
    "SimilarityContext",
    "TransformFormat",
    "register_presets",
    "register_segmenter",
    "register_similarity",
    "register_transform_format",
    "write_image",
    "write_label_map",
    "write_points",
    "write_transform",
}


def test_the_names():
    assert set(iterreg.__all__) == PROMISED
    assert dir(iterreg) == sorted(iterreg.__all__)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_each_name_is_there_and_documented(name):
    assert inspect.getdoc(getattr(iterreg, name))


def test_the_version_is_that_of_the_package():
    assert iterreg.__version__ == own_version()


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match=r"iterreg.*register_everything"):
        _ = iterreg.register_everything


def test_importing_is_quick():
    code = "import sys, iterreg; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_one_verb():
    parameters = inspect.signature(iterreg.optimize_pair).parameters
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert positional == ["fixed", "moving"]
    assert keywords == [
        "fixed_labels",
        "moving_labels",
        "fixed_mask",
        "moving_mask",
        "fixed_landmarks",
        "moving_landmarks",
        "label_table",
        "roi_pairs",
        "initial_transform",
        "features",
        "preset",
        "overrides",
        "device",
        "seed",
        "threads",
        "memory_gb",
        "progress",
    ]
    assert parameters["preset"].default == "thorax" and parameters["device"].default == "auto"


def kinds(base: type[IterregError]) -> list[type[IterregError]]:
    """All errors below one."""
    below = base.__subclasses__()
    return below + [k for b in below for k in kinds(b)]


def test_every_error_has_an_exit_code_of_its_own():
    codes = [k.exit_code for k in kinds(IterregError)]
    assert len(set(codes)) == len(codes)
    assert set(codes) == set(ExitCode) - {
        ExitCode.OK,
        ExitCode.ERROR,
        ExitCode.USAGE,
        ExitCode.DOUBTFUL,
        ExitCode.FAILED,
        ExitCode.INTERRUPTED,
    }


def test_the_manual_lists_every_exit_code():
    page = (ROOT / "docs" / "exit-codes.rst").read_text("utf-8")
    listed = {int(n) for n in re.findall(r"^(\d+)  +\S", page, re.MULTILINE)}
    assert listed == set(ExitCode)


def test_ci_runs_the_second_command_of_the_readme():
    readme = (ROOT / "README.rst").read_text("utf-8")
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    commands = re.findall(r"^    (python3 -m venv .*)$", readme, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("iterreg demo") and commands[1].endswith("pytest")
    install, test = re.split(r" && ", commands[1])[1:]
    lines = [line.strip() for line in script.splitlines()]
    assert install.replace("iterreg-env", '"$folder"') in lines
    assert test.replace("iterreg-env", '"$folder"') in lines


def test_ci_checks_style_and_types_before_the_tests():
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    calls = [line.split("/bin/", 1)[1] for line in lines if line.startswith('"$folder"/bin/')]
    checks = ["ruff check .", "ruff format --check .", "mypy iterreg", "pip install '.[docs]'"]
    assert calls[-5:] == [*checks, "pytest"]
    assert lines.index('bash docs/build.sh "$folder"/bin "$folder"/site') == len(lines) - 2
