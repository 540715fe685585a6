"""Every bad input ends the command with one line, an exit code of its own, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result

from iterreg.cli import iterreg
from iterreg.cli.failures import describe
from iterreg.errors import ExitCode

Arguments = list[str]
SIZE = 20
QUICK = [
    "register",
    "--preset",
    "thorax",
    "--segmenter",
    "none",
    "--set",
    "levels.spacing_mm=[8.0]",
    "--set",
    "levels.steps=[2]",
]


def blob(shift: float = 0.0, size: int = SIZE) -> np.ndarray:
    """A bright ball."""
    axes = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    radius = np.sqrt(sum((a - size / 2 - shift) ** 2 for a in axes))
    return (1000 * (radius < size / 4) + axes[2]).astype(np.float32)


def save(array: np.ndarray, path: Path, spacing: float = 2.0, origin: float = 0.0) -> Path:
    """Write an array as an image."""
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing([spacing] * image.GetDimension())
    image.SetOrigin([origin] * image.GetDimension())
    sitk.WriteImage(image, str(path))
    return path


class Pair:
    """A good pair in a folder, and ways to spoil it."""

    def __init__(self, folder: Path) -> None:
        """Write the pair."""
        self.folder = folder
        self.command = QUICK
        self.out = folder / "out"
        self.fixed = save(blob(), folder / "fixed.nii.gz")
        self.moving = save(blob(1), folder / "moving.nii.gz")
        self.labels = save((blob() > 500).astype(np.uint8), folder / "labels.nii.gz")

    def arguments(self, **changes: object) -> Arguments:
        """The command line of a good run, with some options changed or added."""
        options: dict[str, object] = {"fixed": self.fixed, "moving": self.moving, "out": self.out}
        given = [[f"--{k.replace('_', '-')}", str(v)] for k, v in (options | changes).items()]
        own = list(self.command)
        for option, _ in given:
            if option in own:
                at = own.index(option)
                del own[at : at + 2]
        return [*own, *(word for pair in given for word in pair)]

    def as_thorax(self) -> Arguments:
        """The same pair, called a thorax."""
        self.command = ["thorax"]
        return self.arguments()

    def file(self, name: str, content: bytes) -> Path:
        """Any file."""
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def image(self, name: str, array: np.ndarray, origin: float = 0.0) -> Path:
        """Any image."""
        return save(array, self.folder / name, origin=origin)

    def with_pixdim(self, value: float) -> Path:
        """The fixed image with another spacing in its header, as a broken program writes it."""
        path = self.folder / "spacing.nii"
        sitk.WriteImage(sitk.ReadImage(str(self.fixed)), str(path))
        content = bytearray(path.read_bytes())
        content[80:84] = np.float32(value).tobytes()
        path.write_bytes(bytes(content))
        return path


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A good pair in a folder of its own."""
    return Pair(tmp_path)


def run(arguments: Arguments) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(iterreg, arguments)


def require_refused(result: Result, code: ExitCode, phrase: str, out: Path | None = None) -> None:
    """One line, the code, the phrase, and no folder."""
    lines = [line for line in result.stderr.splitlines() if " %  " not in line]
    assert result.exit_code == code, result.output
    assert len(lines) == 1, lines
    assert lines[0].startswith("iterreg: error: ")
    assert phrase in lines[0]
    assert "bug in iterreg" not in lines[0]
    assert "Traceback" not in result.output
    if out is not None and out.parent.is_dir():
        assert not out.exists()
        assert not [f.name for f in out.parent.iterdir() if f.name.startswith(".")]


def spoiled(array: np.ndarray, value: float) -> np.ndarray:
    """A copy with one bad voxel."""
    array = array.copy()
    array[5, 5, 5] = value
    return array


Case = tuple[Callable[[Pair], Arguments], ExitCode, str]
READ, CONTENT, GEOMETRY = ExitCode.IMAGE_READ, ExitCode.IMAGE_CONTENT, ExitCode.GEOMETRY
CASES: dict[str, Case] = {
    "missing file": (lambda p: p.arguments(moving="no-such.nii.gz"), READ, "no-such.nii.gz"),
    "truncated gzip": (
        lambda p: p.arguments(fixed=p.file("cut.nii.gz", p.fixed.read_bytes()[:-200])),
        READ,
        "truncated",
    ),
    "truncated nrrd": (
        lambda p: p.arguments(
            fixed=p.file("cut.nrrd", p.image("a.nrrd", blob()).read_bytes()[:5000])
        ),
        READ,
        "cut.nrrd",
    ),
    "not an image": (
        lambda p: p.arguments(moving=p.file("text.nii.gz", b"this is text")),
        READ,
        "text.nii.gz",
    ),
    "empty file": (lambda p: p.arguments(moving=p.file("e.mha", b"")), READ, "e.mha"),
    "unknown format": (lambda p: p.arguments(moving=p.file("a.docx", b"x")), READ, ".docx"),
    "4-D": (
        lambda p: p.arguments(fixed=p.image("4d.nii.gz", np.stack([blob(), blob(1)]))),
        CONTENT,
        "4-D",
    ),
    "NaN": (
        lambda p: p.arguments(fixed=p.image("nan.nii.gz", spoiled(blob(), np.nan))),
        CONTENT,
        "1 NaN or infinite",
    ),
    "NaN in NRRD": (
        lambda p: p.arguments(fixed=p.image("nan.nrrd", spoiled(blob(), np.nan))),
        CONTENT,
        "1 NaN or infinite",
    ),
    "infinite": (
        lambda p: p.arguments(moving=p.image("inf.nii.gz", spoiled(blob(), np.inf))),
        CONTENT,
        "inf.nii.gz",
    ),
    "constant": (
        lambda p: p.arguments(fixed=p.image("flat.nii.gz", np.full((SIZE,) * 3, 7.0))),
        CONTENT,
        "contrast",
    ),
    "empty label map": (
        lambda p: p.arguments(
            fixed_labels=p.image("none.nii.gz", np.zeros((SIZE,) * 3, np.uint8)),
            moving_labels=p.labels,
        ),
        CONTENT,
        "none.nii.gz",
    ),
    "labels that are not whole": (
        lambda p: p.arguments(
            fixed_labels=p.image("half.nii.gz", blob() / 3), moving_labels=p.labels
        ),
        CONTENT,
        "whole numbers",
    ),
    "empty mask": (
        lambda p: p.arguments(fixed_mask=p.image("m.nii.gz", np.zeros((SIZE,) * 3, np.uint8))),
        CONTENT,
        "m.nii.gz",
    ),
    "labels of another space": (
        lambda p: p.arguments(
            fixed_labels=p.image("far.nii.gz", np.ones((SIZE,) * 3, np.uint8), 30.0),
            moving_labels=p.labels,
        ),
        GEOMETRY,
        "origin",
    ),
    "mask of another size": (
        lambda p: p.arguments(fixed_mask=p.image("m.nii.gz", np.ones((25, 9, 9), np.uint8))),
        GEOMETRY,
        "size",
    ),
    "images without overlap": (
        lambda p: p.arguments(moving=p.image("far.nii.gz", blob(), 5000.0)),
        GEOMETRY,
        "far.nii.gz",
    ),
    "zero spacing": (lambda p: p.arguments(fixed=p.with_pixdim(0)), GEOMETRY, "positive spacing"),
    "negative spacing": (
        lambda p: p.arguments(fixed=p.with_pixdim(-2)),
        GEOMETRY,
        "positive spacing",
    ),
    "2-D and 3-D": (lambda p: p.arguments(moving=p.image("flat.nii.gz", blob()[9])), GEOMETRY, ""),
    "landmarks without a partner": (
        lambda p: p.arguments(
            fixed_landmarks=p.file("a.csv", b"x,y,z\n1,2,3\n4,5,6\n"),
            moving_landmarks=p.file("b.csv", b"x,y,z\n1,2,3\n"),
        ),
        GEOMETRY,
        "landmarks",
    ),
    "landmarks that are no numbers": (
        lambda p: p.arguments(
            fixed_landmarks=p.file("a.csv", b"x,y,z\n1,2,left\n"),
            moving_landmarks=p.file("b.csv", b"x,y,z\n1,2,3\n"),
        ),
        READ,
        "line 2",
    ),
    "preset without a name": (lambda p: p.arguments(preset=""), ExitCode.CONFIG, "thorax"),
    "unknown preset": (lambda p: p.arguments(preset="torax"), ExitCode.CONFIG, "thorax"),
    "preset that is not TOML": (
        lambda p: p.arguments(preset=p.file("mine.toml", b"schema = = 1")),
        ExitCode.CONFIG,
        "TOML",
    ),
    "unknown key": (
        lambda p: p.arguments(set="smoothness.wait=1"),
        ExitCode.CONFIG,
        "smoothness.wait",
    ),
    "value out of range": (
        lambda p: p.arguments(set="smoothness.weight=-1"),
        ExitCode.CONFIG,
        "smoothness.weight",
    ),
    "value of another type": (
        lambda p: p.arguments(set="smoothness.weight=much"),
        ExitCode.CONFIG,
        "float",
    ),
    "unknown label table": (
        lambda p: p.arguments(
            fixed_labels=p.labels, moving_labels=p.labels, label_table="totalsegmentator-v9"
        ),
        ExitCode.CONFIG,
        "totalsegmentator-v9",
    ),
    "initial transform that is text": (
        lambda p: p.arguments(initial_transform=p.file("t.h5", b"text")),
        ExitCode.TRANSFORM,
        "t.h5",
    ),
    "out under a file": (
        lambda p: p.arguments(out=p.file("file", b"") / "out"),
        ExitCode.OUTPUT,
        "cannot be written",
    ),
    "no thorax": (lambda p: p.as_thorax(), ExitCode.SEGMENTATION, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_line(name: str, pair: Pair) -> None:
    make, code, phrase = CASES[name]
    require_refused(run(make(pair)), code, phrase, pair.out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(pair: Pair) -> None:
    require_refused(run(pair.arguments(device="cuda")), ExitCode.DEVICE, "cuda", pair.out)


def test_folder_with_results_is_kept(pair: Pair) -> None:
    pair.out.mkdir()
    (pair.out / "warped.nii.gz").write_text("precious")
    require_refused(run(pair.arguments()), ExitCode.OUTPUT, "empty folder")
    assert [f.name for f in pair.out.iterdir()] == ["warped.nii.gz"]
    assert (pair.out / "warped.nii.gz").read_text() == "precious"


def test_folder_with_results_survives_a_failed_overwrite(pair: Pair) -> None:
    pair.out.mkdir()
    (pair.out / "warped.nii.gz").write_text("precious")
    result = run([*pair.arguments(moving="no-such.nii.gz"), "--overwrite"])
    assert result.exit_code == ExitCode.IMAGE_READ
    assert [f.name for f in pair.out.iterdir()] == ["warped.nii.gz"]


def test_out_is_a_file(pair: Pair) -> None:
    target = pair.file("taken", b"")
    require_refused(run(pair.arguments(out=target)), ExitCode.OUTPUT, "got a file")
    assert target.is_file()


@pytest.mark.parametrize(
    "extra",
    [
        ["--set", "no-equals-sign"],
        ["--fixed-labels", "a.nii.gz"],
        ["--colour"],
        ["--fixed-landmarks", "a.csv"],
        ["--device", "tpu"],
    ],
)
def test_mistakes_in_the_command_line_are_usage_errors(extra: Arguments, pair: Pair) -> None:
    result = run([*pair.arguments(), *extra])
    assert result.exit_code == ExitCode.USAGE
    assert "Traceback" not in result.output
    assert not pair.out.exists()


def test_apply_and_evaluate_refuse_too(pair: Pair) -> None:
    bad = str(pair.file("t.h5", b"not a transform"))
    out = pair.folder / "result.nii.gz"
    image = ["--image", str(pair.moving), "--reference", str(pair.fixed), "--out", str(out)]
    require_refused(run(["apply", "--transform", bad, *image]), ExitCode.TRANSFORM, "t.h5", out)
    missing = ["apply", "--transform", "gone.h5", *image]
    require_refused(run(missing), ExitCode.TRANSFORM, "gone.h5", out)
    labels = ["--fixed-labels", str(pair.labels), "--moving-labels", str(pair.labels)]
    require_refused(run(["evaluate", "--transform", bad, *labels]), ExitCode.TRANSFORM, "t.h5")
    assert run(["apply", "--transform", bad, "--out", "x"]).exit_code == ExitCode.USAGE


def test_apply_keeps_a_file_that_is_there(pair: Pair) -> None:
    result = run(["apply", "--transform", "t.h5", "--points", "p.csv", "--out", str(pair.fixed)])
    require_refused(result, ExitCode.OUTPUT, "--overwrite")


class TorchOutOfMemoryError(RuntimeError):
    """Named below like torch's."""


TorchOutOfMemoryError.__name__ = "OutOfMemoryError"


@pytest.mark.parametrize(
    ("error", "code", "phrase"),
    [
        (MemoryError(), ExitCode.OUT_OF_MEMORY, "--device cpu"),
        (TorchOutOfMemoryError("CUDA"), ExitCode.OUT_OF_MEMORY, "--device cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), ExitCode.OUT_OF_MEMORY, "memory"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted"),
        (
            ModuleNotFoundError("No module named 'cv2'", name="cv2"),
            ExitCode.MISSING_DEPENDENCY,
            "No module named 'cv2'; install iterreg again",
        ),
        (ModuleNotFoundError("x", name="iterreg.lost"), ExitCode.ERROR, "bug in iterreg"),
        (ZeroDivisionError("a\nb"), ExitCode.ERROR, "bug in iterreg: ZeroDivisionError: a b"),
    ],
)
def test_other_exceptions_become_one_line(error: BaseException, code: int, phrase: str) -> None:
    message, got = describe(error)
    assert got == code
    assert phrase in message
    assert "\n" not in message


def test_exception_inside_a_command(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("iterreg.io.read_image", fail)
    result = run(pair.arguments())
    assert result.exit_code == ExitCode.ERROR
    assert len(result.stderr.splitlines()) == 1
    assert not pair.out.exists()
    shown = run([*pair.arguments(), "--debug"])
    assert "Traceback" in shown.stderr
    assert shown.exit_code == ExitCode.ERROR


@pytest.mark.parametrize("name", ["truncated gzip", "4-D", "labels of another space"])
def test_the_real_process_prints_one_line(name: str, pair: Pair) -> None:
    """ITK prints to the process's own stderr, past Python's."""
    make, code, _ = CASES[name]
    command = [sys.executable, "-m", "iterreg", *make(pair)]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    lines = [line for line in result.stderr.splitlines() if " %  " not in line]
    assert result.returncode == code
    assert len(lines) == 1, lines
    assert result.stdout == ""
    assert not pair.out.exists()
