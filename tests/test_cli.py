"""The commands, from end to end, on the pair that comes with iterreg."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from run_files import FILES

from iterreg import outputs
from iterreg.cli import iterreg
from iterreg.cli.console import LINE_WIDTH, Console
from iterreg.cli.options import COMMAND_OPTIONS, PairRequest, Setting
from iterreg.cli.reading_options import READING_OPTIONS
from iterreg.cli.register import pair_command
from iterreg.config import preset_names
from iterreg.errors import ExitCode
from iterreg.evaluation import Measures
from iterreg.metrics import Folding
from iterreg.pair import optimize_pair
from iterreg.verdict import Status, Verdict

ROOT = Path(__file__).parents[1]
PAIR = Path(outputs.__file__).parent / "data" / "thorax4dct_mini"


class Run(NamedTuple):
    """A finished run of the demo."""

    result: Result
    folder: Path

    @property
    def transform(self) -> str:
        """The path of its transform."""
        return str(self.folder / "transform.h5")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The demo, run once, with the Jacobian left out."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    yield Run(CliRunner().invoke(iterreg, ["demo", "--out", str(folder)]), folder)


def ok(*arguments: object) -> str:
    """Run a command that should succeed, and return what it printed."""
    result = CliRunner().invoke(iterreg, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def array(path: Path) -> np.ndarray:
    """The voxels of a file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


# Help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["thorax"], ["register"], ["apply"], ["evaluate"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from iterreg.cli import iterreg\n"
        f"iterreg({arguments!r} + ['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'SimpleITK', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    resource = pytest.importorskip("resource")

    def used_by_children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(usage.ru_utime + usage.ru_stime)

    before = used_by_children()
    command = [sys.executable, "-m", "iterreg", "thorax", "--help"]
    subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    assert used_by_children() - before < 0.5


def test_every_preset_is_a_command() -> None:
    listed = ok("--help")
    for name in preset_names():
        assert f"  {name} " in listed
        assert "--fixed" in ok(name, "--help")


def test_presets_are_listed_and_shown() -> None:
    listed = ok("presets")
    assert all(name in listed for name in preset_names())
    assert "schema = 1" in ok("presets", "show", "thorax")
    unknown = CliRunner().invoke(iterreg, ["presets", "show", "torax"])
    assert unknown.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=0.5", 0.5),
        ("a.b=3", 3),
        ("a.b=[8.0, 4.0]", [8.0, 4.0]),
        ("a.b=true", True),
        ("a.b=ncc", "ncc"),
        ("a.b='ncc'", "ncc"),
        ("a.b=x=y", "x=y"),
    ],
)
def test_settings_are_toml_or_words(text: str, expected: object) -> None:
    assert Setting().convert(text, None, None) == ("a.b", expected)


# A run ----------------------------------------------------------------------------------------


def test_demo_ends_well_and_says_so(demo: Run) -> None:
    assert demo.result.exit_code == 0, demo.result.output
    text = demo.result.stdout
    assert text.startswith("demo: ok")
    assert str(demo.folder / "report.html") in text
    assert "slides" in text
    assert "before      is identity in physical space" in text
    lines = [line for line in text.splitlines() if str(demo.folder) not in line]
    assert max(map(len, lines)) <= LINE_WIDTH


def test_no_line_grows_with_the_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    stages = ["read", "regions", "start", *(f"level {k}" for k in range(1, 9)), "write"]
    measures = Measures("identity", folding=Folding(0.0, 0.0, 0, 0, 1, 1, 0.0, 0.0))
    verdict = Verdict(Status.OK, (), None)
    run = SimpleNamespace(verdict=verdict, device="cpu", start="affine", notes=())
    summary = SimpleNamespace(
        registration=run,
        measures=measures,
        inverse=None,
        rigid=None,
        timings_s=dict.fromkeys(stages, 123456.7),
    )
    Console().print_run(summary, "demo", Path("out"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= LINE_WIDTH
    text = " ".join(line.strip() for line in lines)
    assert all(f"{stage} 123456.7" in text for stage in stages)


def test_options_are_the_arguments_of_optimize_pair() -> None:
    # A chain of transforms becomes one, and --memory also limits the process.
    chain = {"initial_transforms", "source"}
    own = {*COMMAND_OPTIONS, *READING_OPTIONS, *chain, "debug", "help"}
    options = {option.name for option in pair_command("register", None).params} - own
    arguments = set(inspect.signature(optimize_pair).parameters)
    # The command reads the preset and its changes into one configuration, and shows progress.
    made = {"preset", "overrides", "progress", "initial_transform", "memory_gb"}
    made |= {"features"}  # a function
    assert options == arguments - made


def test_options_without_arguments_of_their_own_change_the_preset(tmp_path: Path) -> None:
    values = {
        "fixed": tmp_path / "f.nii",
        "moving": tmp_path / "m.nii",
        "out": tmp_path,
        "preset": "thorax",
        "settings": (("smoothness.weight", 0.5),),
        "segmenter": "none",
        "fill": -1000.0,
        "rigid": ("bone",),
        "seed": 3,
    }
    request = PairRequest.of(values)
    assert request.arguments == {k: values[k] for k in ("fixed", "moving", "seed")}
    config = request.config()
    assert (config.name, config.segmenter, config.fill) == ("thorax", "none", -1000.0)
    assert list(config.rigid) == ["bone"] and config.smoothness.weight == 0.5


def test_demo_writes_every_file_and_nothing_else(demo: Run) -> None:
    assert sorted(f.name for f in demo.folder.iterdir()) == sorted(FILES)
    fixed = sitk.ReadImage(str(PAIR / "fixed.nii.gz"))
    for name in FILES:
        if name.endswith(".nii.gz"):
            image = sitk.ReadImage(str(demo.folder / name))
            assert image.GetSize() == fixed.GetSize(), name
            assert np.allclose(image.GetOrigin(), fixed.GetOrigin(), atol=1e-3), name
    assert (demo.folder / "overlay.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sitk.ReadImage(str(demo.folder / "warped.nii.gz")).GetPixelID() == fixed.GetPixelID()


def test_demo_improves_the_lung(demo: Run) -> None:
    run = json.loads((demo.folder / "run.json").read_text())
    lungs = [r for r in run["measures"]["regions"] if "lung" in r["name"]]
    assert lungs
    for lung in lungs:
        assert lung["dice_after"] > lung["dice_before"]
    assert run["measures"]["folding"]["interior_folds"] == 0


def test_run_json_tells_everything(demo: Run) -> None:
    run = json.loads((demo.folder / "run.json").read_text(), parse_constant=pytest.fail)
    assert run["schema"] == outputs.SCHEMA
    assert run["verdict"]["status"] == "ok"
    assert run["config"]["name"] == "thorax"
    for key in (
        "field_of_view",
        "start",
        "notes",
        "versions",
        "device",
        "seed",
        "threads",
        "timings_s",
        "measures",
        "history",
        "regions",
    ):
        assert key in run
    assert {"measure", "draw", "write"} <= set(run["timings_s"])


def test_simpleitk_maps_points_as_the_displacement_says(demo: Run) -> None:
    transform = sitk.ReadTransform(demo.transform)
    field = sitk.ReadImage(str(demo.folder / "displacement_mm.nii.gz"), sitk.sitkVectorFloat64)
    generator = np.random.default_rng(0)
    size = np.asarray(field.GetSize())
    for index in generator.integers(2, size - 2, (200, 3)).tolist():
        point = field.TransformIndexToPhysicalPoint(index)
        mapped = np.asarray(transform.TransformPoint(point))
        assert np.allclose(mapped - point, field[tuple(index)], atol=1e-3)


def test_quiet_prints_nothing(tmp_path: Path, demo: Run) -> None:
    out = tmp_path / "p.csv"
    points = tmp_path / "in.csv"
    points.write_text("x,y,z\n0,0,0\n")
    result = CliRunner().invoke(
        iterreg,
        [
            "apply",
            "--transform",
            demo.transform,
            "--points",
            str(points),
            "--out",
            str(out),
            "--quiet",
        ],
    )
    assert result.exit_code == 0
    assert result.output == ""


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "iterreg", "demo", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 30
    while not (out.is_dir() and any(out.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, stderr
    assert stderr.splitlines()[-1] == "iterreg: interrupted; nothing was written"
    assert stdout == ""
    assert not out.exists()


# Apply ----------------------------------------------------------------------------------------


def test_apply_warps_an_image_as_the_run_did(demo: Run, tmp_path: Path) -> None:
    out = tmp_path / "warped.nii.gz"
    ok(
        "apply",
        "--transform",
        demo.transform,
        "--reference",
        PAIR / "fixed.nii.gz",
        "--image",
        PAIR / "moving.nii.gz",
        "--fill",
        -1000,
        "--out",
        out,
    )
    difference = array(out).astype(float) - array(demo.folder / "warped.nii.gz")
    assert np.abs(difference).max() <= 1


def test_apply_never_invents_labels(demo: Run, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    ok(
        "apply",
        "--transform",
        demo.transform,
        "--reference",
        PAIR / "fixed.nii.gz",
        "--labels",
        demo.folder / "moving_regions.nii.gz",
        "--out",
        out,
    )
    assert np.array_equal(array(out), array(demo.folder / "warped_regions.nii.gz"))
    source = array(demo.folder / "moving_regions.nii.gz")
    assert set(np.unique(array(out))) <= set(np.unique(source)) | {0}


def test_apply_takes_a_reference_of_another_grid(demo: Run, tmp_path: Path) -> None:
    fixed = sitk.ReadImage(str(PAIR / "fixed.nii.gz"))
    coarse = sitk.Resample(
        fixed, [40, 30, 20], sitk.Transform(), sitk.sitkLinear, fixed.GetOrigin(), [10.0, 9.0, 14.0]
    )
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nii.gz"))
    out = tmp_path / "w.nii.gz"
    ok(
        "apply",
        "--transform",
        demo.transform,
        "--reference",
        tmp_path / "coarse.nii.gz",
        "--image",
        PAIR / "moving.nii.gz",
        "--out",
        out,
    )
    assert sitk.ReadImage(str(out)).GetSize() == (40, 30, 20)


def test_points_go_there_and_back(demo: Run, tmp_path: Path) -> None:
    regions = sitk.ReadImage(str(demo.folder / "fixed_regions.nii.gz"))
    inside = np.argwhere(sitk.GetArrayFromImage(sitk.BinaryErode(regions > 0, [3, 3, 3])))
    chosen = inside[np.random.default_rng(1).choice(len(inside), 60, replace=False)]
    points = [regions.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in chosen]
    rows = "".join(f"{x},{y},{z}\n" for x, y, z in points)
    (tmp_path / "fixed.csv").write_text("x,y,z\n" + rows)
    ok(
        "apply",
        "--transform",
        demo.transform,
        "--points",
        tmp_path / "fixed.csv",
        "--out",
        tmp_path / "moving.csv",
    )
    moved = np.loadtxt(tmp_path / "moving.csv", delimiter=",", skiprows=1)
    transform = sitk.ReadTransform(demo.transform)
    assert np.allclose(moved, [transform.TransformPoint(p) for p in points], atol=1e-3)
    ok(
        "apply",
        "--transform",
        demo.transform,
        "--points",
        tmp_path / "moving.csv",
        "--inverse",
        "--out",
        tmp_path / "back.csv",
    )
    header, *lines = (tmp_path / "back.csv").read_text().splitlines()
    assert header == "x,y,z,status,residual_mm"
    back = [line.split(",") for line in lines]
    assert {row[3] for row in back} <= {"ok", "gap", "overlap", "outside", "blended"}
    distance = [
        np.linalg.norm(np.array(row[:3], float) - p)
        for row, p in zip(back, points, strict=True)
        if row[3] == "ok"
    ]
    assert len(distance) > 0.8 * len(points)
    assert np.quantile(distance, 0.9) < 0.1


def test_inverse_pulls_the_fixed_image_onto_the_moving_grid(demo: Run, tmp_path: Path) -> None:
    out = tmp_path / "fixed_on_moving.nii.gz"
    told = ok(
        "apply",
        "--transform",
        demo.transform,
        "--reference",
        PAIR / "moving.nii.gz",
        "--image",
        PAIR / "fixed.nii.gz",
        "--inverse",
        "--out",
        out,
    )
    assert "on the moving grid" in told
    fixed, moving = array(PAIR / "fixed.nii.gz"), array(PAIR / "moving.nii.gz")
    before = np.abs(fixed.astype(float) - moving).mean()
    assert np.abs(array(out).astype(float) - moving).mean() < before


def test_inverse_works_on_labels(demo: Run, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    source = PAIR / "fixed_labels.nii.gz"
    ok(
        "apply",
        "--transform",
        demo.transform,
        "--reference",
        PAIR / "moving.nii.gz",
        "--labels",
        source,
        "--inverse",
        "--out",
        out,
    )
    assert set(np.unique(array(out))) <= set(np.unique(array(source)))


# Evaluate -------------------------------------------------------------------------------------


def test_evaluate_writes_all_numbers(demo: Run, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"soft tissue": 1, "lung": 2, "bone": 3}')
    (tmp_path / "a.csv").write_text("x,y,z\n-100,-50,-60\n60,-20,-100\n")
    (tmp_path / "b.csv").write_text("x,y,z\n-100,-50,-66\n60,-20,-100\n")
    out = tmp_path / "numbers.json"
    told = ok(
        "evaluate",
        "--transform",
        demo.transform,
        "--fixed-labels",
        PAIR / "fixed_labels.nii.gz",
        "--moving-labels",
        PAIR / "moving_labels.nii.gz",
        "--label-table",
        tmp_path / "names.json",
        "--fixed-landmarks",
        tmp_path / "a.csv",
        "--moving-landmarks",
        tmp_path / "b.csv",
        "--json",
        out,
    )
    assert "Learn2Reg" in told
    numbers = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert numbers["schema"] == 2
    by_name = {region["name"]: region for region in numbers["regions"]}
    assert set(by_name) == {"soft tissue", "lung", "bone"}
    lung = by_name["lung"]
    assert lung["dice_after"] > lung["dice_before"] > 0.85
    assert lung["hd95_after_mm"] < lung["hd95_before_mm"]
    assert 0 < lung["coverage"] <= 1
    assert 0.5 < lung["volume_change"] < 2
    assert numbers["tre_before"]["count"] == 2
    assert numbers["tre_before"]["mean_mm"] == pytest.approx(3.0)
    written = out.read_bytes()
    arguments = ["--transform", demo.transform]
    for side in ("fixed", "moving"):
        arguments += [f"--{side}-labels", str(PAIR / f"{side}_labels.nii.gz")]
    again = CliRunner().invoke(iterreg, ["evaluate", *arguments, "--json", str(out)])
    assert again.exit_code == ExitCode.OUTPUT and "--overwrite replaces it" in again.stderr
    assert out.read_bytes() == written
    ok("evaluate", *arguments, "--json", out, "--overwrite", "--quiet")
    assert out.read_bytes() != written
    for key in ("sdlogj", "sdlogj_interior", "sdlogj_l2r"):
        assert numbers[key] > 0
    assert set(numbers["folding"]) >= {"interior_share", "interface_share", "share_interior"}


def test_identity_changes_nothing(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "identity.tfm"))
    labels = PAIR / "fixed_labels.nii.gz"
    out = tmp_path / "n.json"
    ok(
        "evaluate",
        "--transform",
        tmp_path / "identity.tfm",
        "--fixed-labels",
        labels,
        "--moving-labels",
        labels,
        "--json",
        out,
        "--quiet",
    )
    numbers = json.loads(out.read_text())
    assert numbers["sdlogj"] == pytest.approx(0, abs=1e-6)
    assert numbers["folding"]["interface_folds"] == 0
    for region in numbers["regions"]:
        assert region["dice_before"] == region["dice_after"] == 1
        assert region["hd95_after_mm"] == 0
        assert region["volume_change"] == pytest.approx(1)
