"""Plug-ins: registered in Python or offered by a package, chosen by name, told by name if wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from synthetic import INTENSITIES, ONE_LEVEL, Pair, World, error_mm, save, to_itk

import iterreg
from iterreg import DisplacementField, LabelMap, Transform, TransformFormat, preset_folders
from iterreg.cli import iterreg as command
from iterreg.config import load_config, preset_names
from iterreg.energy.similarity import SIMILARITIES, similarity_term
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.terms import NormalEquations
from iterreg.errors import ConfigError, ExitCode, PluginError, SegmentationError
from iterreg.formats import TRANSFORM_FORMATS
from iterreg.formats.reading import recognise
from iterreg.kernels import IndexMap
from iterreg.plugins import PluginWarning
from iterreg.preset_folders import unregister_presets
from iterreg.regions.segmenters import SEGMENTERS
from iterreg.registry import installed_plugins, unregister

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    for table in (SIMILARITIES, SEGMENTERS, TRANSFORM_FORMATS):
        table._registered.clear()
    for folder in list(preset_folders._preset_folders):
        unregister_presets(folder[1])


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.of(World(slide_mm=1.0))


def squared(fixed: Any, warped: Any, context: Any) -> Any:
    return (fixed - warped).square().mean(0)


# Similarities ----------------------------------------------------------------------------------


def images_of(seed: int) -> ComparedImages:
    """Two smooth images that differ; a corner is not seen."""
    random = torch.Generator().manual_seed(seed)
    data = torch.rand(2, 1, 6, 7, 8, generator=random)
    seen = torch.ones(6, 7, 8, dtype=torch.bool)
    seen[:2, :2] = False
    return ComparedImages(data[0], data[1], (2.0, 1.0, 1.5), (2.0, 1.0, 1.5), seen)


def accumulated(name: str, u_mm: torch.Tensor, images: ComparedImages) -> Any:
    """Energy, half its gradient and the curvature of a similarity."""
    term = similarity_term(load_config("general", {"similarity.kind": name}).similarity, images)
    into = NormalEquations.zero(u_mm)
    mapping = IndexMap(torch.eye(3), torch.zeros(3), torch.diag(torch.tensor([0.5, 1.0, 1 / 1.5])))
    energy = term.without_outside_cost().accumulate(u_mm, mapping, into)
    return energy, into.gradient, into.curvature


@pytest.mark.parametrize("shape", ["voxels", "mean"])
def test_a_squared_difference_is_that_of_the_built_in_term(shape):
    def mean(fixed, warped, context):
        return squared(fixed, warped, context)[context.mask].mean()

    iterreg.register_similarity("mine", squared if shape == "voxels" else mean)
    u_mm = 0.6 * torch.rand(3, 6, 7, 8, generator=torch.Generator().manual_seed(3))
    ours = accumulated("mine", u_mm, images_of(0))
    theirs = accumulated("mse", u_mm, images_of(0))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_windowed_cost_is_that_of_its_energy():
    def windowed(fixed, warped, context):
        apart = torch.nn.functional.avg_pool3d((fixed - warped)[None], 3, 1, 1)[0]
        return apart.abs().pow(1.5).mean(0)

    iterreg.register_similarity("windowed", windowed)
    random = torch.Generator().manual_seed(5)
    u_mm = 0.3 * torch.rand(3, 6, 7, 8, generator=random) + 0.1
    step = torch.rand(3, 6, 7, 8, generator=random) - 0.5
    images = replace(images_of(1), common_fov=torch.ones(6, 7, 8, dtype=torch.bool))
    _, half, curvature = accumulated("windowed", u_mm, images)
    small = 1e-3
    up, down = (accumulated("windowed", u_mm + s * step, images)[0] for s in (small, -small))
    slope = float((up - down) / (2 * small))
    assert float((2 * half * step).sum()) == pytest.approx(slope, rel=0.02)
    assert float(curvature[0].min()) >= 0


def test_a_registration_uses_it_by_name(pair):
    iterreg.register_similarity("mine", squared)
    overrides = INTENSITIES | ONE_LEVEL | {"similarity.kind": "mine"}
    run = iterreg.optimize_pair(**pair.images, preset="general", overrides=overrides)
    built_in = iterreg.optimize_pair(
        **pair.images, preset="general", overrides=INTENSITIES | ONE_LEVEL
    )
    assert error_mm(run, pair) < 1.1 * error_mm(built_in, pair) < 0.8
    assert run.versions["similarity.kind mine"] == "registered in Python"
    assert "similarity.kind mine" not in built_in.versions


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (lambda f, w, c: 1 / 0, "failed: ZeroDivisionError: division by zero"),
        (lambda f, w: w.mean(), "failed: TypeError"),
        (lambda f, w, c: 0.5, "expected a tensor of one number, or .* got float"),
        (lambda f, w, c: w.mean(0)[1:], r"got shape \(\d+, \d+, \d+\)"),
        (lambda f, w, c: f.mean(0), "without a gradient"),
        (lambda f, w, c: -(f * w).mean(0), "expected costs of 0 .* return 1 - similarity"),
        (lambda f, w, c: w.mean() * float("nan"), "expected costs of 0 .* got nan"),
        (lambda f, w, c: (w * 0).sum().sqrt(), "finite gradient"),
    ],
)
def test_a_similarity_that_is_wrong_is_named(pair, cost, words):
    iterreg.register_similarity("mine", cost)
    overrides = INTENSITIES | ONE_LEVEL | {"similarity.kind": "mine"}
    label = r"similarity.kind mine \(registered in Python\): "
    with pytest.raises(PluginError, match=label + ".*" + words) as caught:
        iterreg.optimize_pair(**pair.images, preset="general", overrides=overrides)
    assert "\n" not in str(caught.value)


# Segmenters ------------------------------------------------------------------------------------


def by_brightness(image: Any, device: str) -> Any:
    """Two regions by intensity, as an array with names."""
    return (image.data[0] > 350).numpy().astype(np.uint8) + 1, {1: "dark", 2: "bright"}


ANSWERS = {
    "array": by_brightness,
    "tensor": lambda image, device: (image.data[0] > 350).int() + 1,
    "label map": lambda image, device: LabelMap(
        (image.data[0] > 350).int() + 1, image.grid, {1: "dark", 2: "bright"}
    ),
    "SimpleITK": lambda image, device: to_itk(
        LabelMap((image.data[0] > 350).int() + 1, image.grid)
    ),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_segmenter_finds_the_regions_of_both_images(pair, kind):
    iterreg.register_segmenter("mine", ANSWERS[kind])
    overrides = INTENSITIES | {"segmenter": "mine", "levels.steps": [1] * 3}
    run = iterreg.optimize_pair(**pair.images, preset="general", overrides=overrides)
    assert run.fixed_labels.values == run.moving_labels.values == [1, 2]
    expected = (pair.moving.data[0] > 350).int() + 1
    assert torch.equal(run.moving_labels.data, expected)
    named = kind in ("array", "label map")
    assert run.fixed_labels.names == ({1: "dark", 2: "bright"} if named else {})
    assert run.versions["segmenter mine"] == "registered in Python"


def fails(image: Any, device: str) -> Any:
    raise SegmentationError(f"{image.name}: no liver")


def cropped(image: Any, device: str) -> LabelMap:
    grid = replace(image.grid, shape_zyx=(2, 2, 2))
    return LabelMap(torch.ones(2, 2, 2).int(), grid)


@pytest.mark.parametrize(
    ("segment", "error", "words"),
    [
        (lambda image, device: 1 / 0, PluginError, "failed: ZeroDivisionError"),
        (fails, SegmentationError, "fixed: no liver"),
        (lambda image, device: image.data[0, 1:].int(), PluginError, "labels of fixed: expected"),
        (lambda image, device: image.data[0] + 0.5, PluginError, "whole numbers"),
        (lambda image, device: "no such file", PluginError, "no such file"),
        (lambda image, device: None, PluginError, "got NoneType"),
        (lambda image, device: torch.zeros(image.grid.shape_zyx).int(), PluginError, "background"),
        (cropped, PluginError, "expected the space of fixed"),
    ],
)  # fmt: skip
def test_a_segmenter_that_is_wrong_is_named(pair, segment, error, words):
    iterreg.register_segmenter("mine", segment)
    with pytest.raises(error, match=r"segmenter mine \(registered in Python\): .*" + words):
        iterreg.optimize_pair(**pair.images, preset="general", overrides={"segmenter": "mine"})


# Transform formats -----------------------------------------------------------------------------


def load_shift(path: Path, sides: Any) -> Transform:
    matrix = np.eye(4)
    matrix[:3, 3] = [float(word) for word in path.read_text().split()[1:]]
    return Transform(matrix, DisplacementField.zero(sides.fixed))


def write_shift(transform: Transform, path: Path, moving: Any) -> str:
    path.write_text("shift " + " ".join(f"{v:g}" for v in transform.affine_lps[:3, 3]))
    return "a shift (mm, LPS)"


SHIFT = TransformFormat(
    meaning="a shift (mm, LPS)",
    read_suffixes=(".shift",),
    write_suffixes=(".shift",),
    recognises=lambda path: path.read_text().startswith("shift"),
    load=load_shift,
    write=write_shift,
)


def test_a_transform_format_is_read_and_written(pair, tmp_path):
    iterreg.register_transform_format("shift", SHIFT)
    (tmp_path / "a.shift").write_text("shift 1 -2 3.5")
    read = iterreg.read_transform(tmp_path / "a.shift", pair.fixed.grid)
    assert read.affine_lps[:3, 3].tolist() == [1.0, -2.0, 3.5]
    files = save(tmp_path, fixed=pair.fixed, moving=pair.moving)
    itk = sitk.TranslationTransform(3, (4.0, 5.0, 6.0))
    sitk.WriteTransform(itk, str(tmp_path / "t.tfm"))
    words = ["convert", "--transform", tmp_path / "t.tfm", "--fixed", files["fixed"]]
    for to in ([], ["--to", "shift"]):
        out = ["--out", tmp_path / "b.shift", "--overwrite", *to]
        result = CliRunner().invoke(command, [str(w) for w in (*words, *out)])
        assert result.exit_code == 0, result.output
        assert (tmp_path / "b.shift").read_text() == "shift 4 5 6"
    assert "wrote: a shift" in result.output


def broken(path: Path, sides: Any = None) -> Any:
    raise KeyError("header")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load": broken}, "failed: KeyError: 'header'"),
        ({"load": lambda path, sides: 3}, r"a\.shift: expected an iterreg.Transform, got int"),
        ({"recognises": broken}, "failed: KeyError"),
    ],
)
def test_a_format_that_is_wrong_is_named(pair, tmp_path, changes, words):
    iterreg.register_transform_format("shift", TransformFormat(**(vars(SHIFT) | changes)))
    (tmp_path / "a.shift").write_text("shift 1 2 3")
    with pytest.raises(PluginError, match=r"transform format shift \(registered.*" + words):
        iterreg.read_transform(tmp_path / "a.shift", pair.fixed.grid)


def test_a_broken_format_does_not_hide_the_others(tmp_path):
    sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "t.txt"))
    changes = {"recognises": broken, "read_suffixes": (".txt",)}
    iterreg.register_transform_format("x", TransformFormat(**(vars(SHIFT) | changes)))
    assert recognise(tmp_path / "t.txt") == "itk"


# Presets and names -----------------------------------------------------------------------------


def test_a_folder_of_presets_is_offered(tmp_path):
    (tmp_path / "knee.toml").write_text('# Knees.\nschema = 1\nsegmenter = "none"\n')
    iterreg.register_presets(tmp_path)
    assert "knee" in preset_names() and load_config("knee").name == "knee"
    listed = CliRunner().invoke(command, ["presets"]).output
    assert "knee" in listed and "Knees." in listed
    assert "schema = 1" in CliRunner().invoke(command, ["presets", "show", "knee"]).output
    assert CliRunner().invoke(command, ["knee", "--help"]).exit_code == 0
    unregister_presets(tmp_path)
    assert "knee" not in preset_names()


def test_names_that_are_taken_or_odd_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="segmenter: the name 'thorax-ct' is taken"):
        iterreg.register_segmenter("thorax-ct", by_brightness)
    with pytest.raises(ConfigError, match=r"similarity.kind: expected a name of letters"):
        iterreg.register_similarity("a b", squared)
    with pytest.raises(PluginError, match=r"expected a function .*got int"):
        iterreg.register_similarity("mine", 3)
    with pytest.raises(PluginError, match=r"expected an iterreg.TransformFormat, got dict"):
        iterreg.register_transform_format("mine", {})
    with pytest.raises(ConfigError, match=r"expected \.toml files in it, got none"):
        iterreg.register_presets(tmp_path)
    assert "mine" not in SIMILARITIES
    iterreg.register_similarity("mine", squared)
    iterreg.register_similarity("mine", squared)
    unregister("mine")
    assert "mine" not in SIMILARITIES


def test_a_preset_of_an_own_name_is_left_out_with_a_warning(tmp_path):
    (tmp_path / "thorax.toml").write_text("schema = 1\n")
    iterreg.register_presets(tmp_path)
    with pytest.warns(PluginWarning, match=r"preset thorax .* iterreg has a preset of that name"):
        names = preset_names()
    assert names.count("thorax") == 1 and load_config("thorax").segmenter == "thorax-ct"


# A package -------------------------------------------------------------------------------------

CODE = """
import iterreg, numpy

def absolute(fixed, warped, context):
    return ((fixed - warped).square() + 1e-4).sqrt().mean(0) - 1e-2

def bright(image, device):
    return (image.data[0] > 350).int() + 1, {1: "dark", 2: "bright"}

def worse(image, device):
    return image.data[0, 1:].int()

def load(path, sides):
    matrix = numpy.eye(4)
    matrix[:3, 3] = [float(word) for word in path.read_text().split()[1:]]
    return iterreg.Transform(matrix, iterreg.DisplacementField.zero(sides.fixed))

SHIFT = iterreg.TransformFormat(
    meaning="a shift", read_suffixes=(".shift",), write_suffixes=(),
    recognises=lambda path: path.read_text().startswith("shift"), load=load,
)
"""

PRESET = """# Tiny.
schema = 1
segmenter = "bright"

[similarity]
kind = "absolute"

[levels]
spacing_mm = [4.0]
steps = [4]
"""

ENTRY_POINTS = """
[iterreg.similarities]
absolute = tiny_tools:absolute
nowhere = tiny_tools_that_are_not_there:cost

[iterreg.segmenters]
bright = tiny_tools:bright
worse = tiny_tools:worse

[iterreg.transform_formats]
shift = tiny_tools:SHIFT

[iterreg.presets]
tiny = tiny_tools.presets
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a tiny package is installed."""
    site = tmp_path_factory.mktemp("site")
    package = site / "tiny_tools"
    (package / "presets").mkdir(parents=True)
    (package / "__init__.py").write_text(CODE)
    (package / "presets" / "__init__.py").write_text("")
    (package / "presets" / "tiny.toml").write_text(PRESET)
    record = site / "tiny_tools-1.5.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-tools\nVersion: 1.5\n")
    (record / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def run_with(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process that finds the package."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    return subprocess.run(
        [sys.executable, "-m", "iterreg", *(str(w) for w in words)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_a_package_is_used_by_name_on_the_command_line(site, pair, tmp_path):
    files = save(tmp_path, fixed=pair.fixed, moving=pair.moving)
    (tmp_path / "start.shift").write_text("shift 0.5 0 0")
    images = "--fixed", files["fixed"], "--moving", files["moving"]
    out = tmp_path / "out"
    start = "--initial-transform", tmp_path / "start.shift"
    result = run_with(site, "tiny", *images, *start, "--out", out, "--no-report", "--quiet")
    assert result.returncode in (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED), result.stderr
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["similarity"]["kind"] == "absolute" and run["config"]["name"] == "tiny"
    assert run["regions"] == {"1": "dark", "2": "bright"}
    for role in ("similarity.kind absolute", "segmenter bright", "preset tiny"):
        assert run["versions"][role] == "tiny-tools 1.5"
    wrong = run_with(
        site, "register", "--preset", "general", *images, "--out", tmp_path / "no",
        "--segmenter", "worse",
    )  # fmt: skip
    assert wrong.returncode == ExitCode.PLUGIN
    line = wrong.stderr.splitlines()[-1]
    assert "segmenter worse (tiny-tools 1.5): " in line and not (tmp_path / "no").exists()


def test_what_a_package_adds_is_listed(site):
    result = run_with(site, "plugins")
    assert result.returncode == ExitCode.PLUGIN
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["segmenter", "bright", "tiny-tools", "1.5"] in rows
    assert ["preset", "tiny", "tiny-tools", "1.5"] in rows
    assert "similarity.kind nowhere (tiny-tools 1.5): failed: ModuleNotFoundError" in result.stderr
    listed = run_with(site, "--help").stdout
    assert "tiny " in listed and "Tiny." in listed


def test_packages_are_found_when_the_path_changes(site, monkeypatch):
    assert installed_plugins() == []
    monkeypatch.syspath_prepend(site)
    names = {plugin.name for plugin in installed_plugins()}
    assert names == {"absolute", "nowhere", "bright", "worse", "shift", "tiny"}
    with pytest.raises(ConfigError, match="the name 'bright' is taken"):
        iterreg.register_segmenter("bright", by_brightness)
    with pytest.raises(ConfigError, match=r"expected one of none, .*bright, worse, got 'best'"):
        load_config("general", {"segmenter": "best"})


def test_two_packages_of_one_name_are_told_when_it_is_chosen(site, tmp_path, monkeypatch):
    record = tmp_path / "other_tools-2.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: other-tools\nVersion: 2\n")
    (record / "entry_points.txt").write_text("[iterreg.segmenters]\nbright = other:bright\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(tmp_path)
    label = (
        r"segmenter bright \((other-tools 2 and tiny-tools 1.5|tiny-tools 1.5 and other-tools 2)\)"
    )
    with pytest.raises(PluginError, match=label):
        SEGMENTERS["bright"]
    assert callable(SEGMENTERS["worse"])
