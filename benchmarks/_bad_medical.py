"""Bad inputs of medical formats: DICOM, named label maps, other programs' transforms, pictures."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from _bad_kinds import BYTES, QUICK, Case, spoil_header, spoil_json, spoil_nifti, spoil_text

GOOD = "{good}/"
PAIR = f"register --preset general --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz {QUICK}"
APPLY = f"apply --reference {GOOD}image.nii.gz --image {GOOD}image.nii.gz --out o.nii.gz"
FOLDERS = ("series", "phases")
FILES: dict[str, tuple[str, ...]] = {
    "enhanced": ("enhanced.dcm",),
    "structures": ("structures.dcm",),
    "segmentation": ("segmentation.dcm",),
    "named labels": ("named.seg.nrrd", "layers.seg.nrrd"),
    "markups": ("points.mrk.json", "points.txt", "points.tsv", "elastix.pts"),
    "foreign": (
        *("TransformParameters.0.txt", "flirt.mat", "a.lta", "a.xfm", "a.aff12.1D"),
        *("niftyreg.nii.gz", "spm.nii", "displacement.npz", "fnirt.nii.gz", "aladin.txt"),
    ),
    "chain": ("affine.tfm", "both.h5", "a.xfm", "field.nii.gz"),
    "odd picture": ("p16.png", "palette.png", "alpha.png", "cmyk.jpg", "exif.jpg", "pages.tif"),
    "pair of files": ("image.nhdr", "pair.hdr", "packed.mha", "ascii.nrrd", "nifti2.nii"),
    "evaluation": ("evaluation.json",),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "series": (
        "dicom list {bad}",
        f"register --preset general --fixed {{bad}} --moving {GOOD}image.nii.gz {QUICK} --out out",
        f"apply --transform {GOOD}affine.tfm --reference {{bad}} --image {{bad}} --out o.nii.gz",
        "phantom --image {bad} --out out",
    ),
    "structures": (
        f"{PAIR} --fixed-labels {{bad}} --moving-labels {GOOD}structures.dcm --out out",
        f"apply --transform {GOOD}affine.tfm --reference {GOOD}image.nii.gz --labels {{bad}} "
        "--out o.nii.gz",
        f"{PAIR} --fixed-mask {{bad}} --structures Lung --out out",
        f"evaluate --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz --fixed-labels {{bad}} "
        "--moving-labels {bad}",
    ),
    "markups": (
        f"apply --transform {GOOD}affine.tfm --points {{bad}} --out o.csv",
        f"evaluate --fixed-landmarks {{bad}} --moving-landmarks {GOOD}points.csv",
        f"{PAIR} --fixed-landmarks {{bad}} --moving-landmarks {GOOD}points.csv --out out",
    ),
    "foreign": (
        f"{APPLY} --transform {{bad}}",
        f"{APPLY} --transform {{bad}} --source {GOOD}image.nii.gz",
        f"apply --transform {{bad}} --points {GOOD}points.csv --out o.csv",
        f"convert --transform {{bad}} --fixed {GOOD}image.nii.gz --out o.h5",
        f"convert --transform {{bad}} --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz "
        f"--source {GOOD}image.nii.gz --reference {GOOD}image.nii.gz --to fsl --out o.nii.gz",
        f"{PAIR} --initial-transform {{bad}} --out out",
    ),
    "chain": (
        f"{APPLY} --transform {{bad}} --transform {GOOD}affine.tfm",
        f"{APPLY} --transform {GOOD}both.h5 --transform {{bad}} --inverse",
        f"apply --transform [{{bad}},1] --transform {GOOD}affine.tfm --points {GOOD}points.csv "
        "--out o.csv",
    ),
    "odd picture": (
        f"register --preset general --fixed {{bad}} --moving {GOOD}picture.png {QUICK} --out out",
        "phantom --image {bad} --out out",
        f"evaluate --fixed-labels {{bad}} --moving-labels {GOOD}picture.png",
    ),
    "pair of files": (
        f"register --preset general --fixed {{bad}} --moving {GOOD}image.nii.gz {QUICK} --out out",
        f"apply --transform {GOOD}affine.tfm --reference {GOOD}image.nii.gz --image {{bad}} "
        "--out o.nii.gz",
    ),
    "evaluation": ("learn2reg evaluate {good}/fields.zip --task {good}/task --config {bad}",),
}
COMMANDS |= {"phases": COMMANDS["series"], "enhanced": COMMANDS["series"]}
COMMANDS |= {role: COMMANDS["structures"] for role in ("segmentation", "named labels")}
ODD_DICOM: tuple[Any, ...] = (
    *(
        "",
        "nan",
        "1e30",
        "-1",
        "0",
        "x" * 70,
        "9" * 40,
        "\x1b[2J",
        "1\\2",
        "1\\2\\3\\4\\5\\6",
        None,
    ),
    *(0, -1, 65535, 2**31, 1.5, [], [1.0], ["1e300"] * 3, b"\0", "é", "MONOCHROME9", "1.2.3"),
)


# Drawing --------------------------------------------------------------------------------------


def medical(rng: random.Random, good: Path, folder: Path) -> Case:
    """Draw a case of a medical format."""
    role = rng.choice((*FILES, *FOLDERS))
    if role in FOLDERS:
        how, bad, must_fail = _series(rng, good / role, folder)
    else:
        name = rng.choice(FILES[role])
        how, spoiled, must_fail = _spoiled(rng, name, (good / name).read_bytes())
        bad = folder / name
        bad.write_bytes(spoiled)
        for other in (good / "image.raw.gz", good / "image.raw", good / "pair.img"):
            if other.exists():
                shutil.copy(other, folder)
    line = rng.choice(COMMANDS[role]).format(good=good, bad=bad.name)
    return Case(f"{role}: {how}", line.split(), must_fail)


def _series(rng: random.Random, source: Path, folder: Path) -> tuple[str, Path, bool]:
    bad = folder / source.name
    shutil.copytree(source, bad)
    slices = sorted(bad.iterdir())
    how = rng.choice(tuple(SERIES))
    return how, bad, bool(SERIES[how](rng, bad, slices))


def _drop(rng: random.Random, bad: Path, slices: list[Path]) -> None:
    slices[rng.randrange(1, len(slices) - 1)].unlink()


def _double(rng: random.Random, bad: Path, slices: list[Path]) -> None:
    shutil.copy(rng.choice(slices), bad / rng.choice(("copy.dcm", "copy", ["x", "y.dcm"][1])))


def _bytes(rng: random.Random, bad: Path, slices: list[Path]) -> None:
    path = rng.choice(slices)
    path.write_bytes(BYTES[rng.choice(tuple(BYTES))][0](rng, path.read_bytes()))


def _all_bytes(rng: random.Random, bad: Path, slices: list[Path]) -> bool:
    for path in slices:
        path.write_bytes(rng.choice((b"", rng.randbytes(999), b"x" * 200)))
    return True


def _value(rng: random.Random, bad: Path, slices: list[Path]) -> None:
    state = rng.getstate()
    for path in slices if rng.random() < 0.4 else [rng.choice(slices)]:
        rng.setstate(state)
        path.write_bytes(spoil_dicom(rng, path.read_bytes()))


def _others(rng: random.Random, bad: Path, slices: list[Path]) -> None:
    (bad / "sub").mkdir()
    for name in ("DICOMDIR", "VERSION", ".DS_Store", "report.pdf", "sub/notes.txt"):
        (bad / name).write_bytes(rng.choice((b"", b"text\n", rng.randbytes(300))))
    if rng.random() < 0.5:
        (bad / "sub" / "loop").symlink_to(bad, target_is_directory=True)


def _moved(rng: random.Random, bad: Path, slices: list[Path]) -> None:
    for path in slices:
        data = pydicom.dcmread(path)
        place = [float(v) for v in data.ImagePositionPatient]
        place[rng.randrange(3)] += rng.choice((0.3, 5.0, 400.0, -1e6))
        data.ImagePositionPatient = [f"{v:.6g}" for v in place]
        data.save_as(path)


SERIES: dict[str, Callable[[random.Random, Path, list[Path]], bool | None]] = {
    "missing": _drop,
    "doubled": _double,
    "bytes": _bytes,
    "all bytes": _all_bytes,
    "value": _value,
    "others": _others,
    "moved": _moved,
}


def _spoiled(rng: random.Random, name: str, content: bytes) -> tuple[str, bytes, bool]:
    if rng.random() < 0.6:
        if name.endswith(".dcm"):
            return "value", spoil_dicom(rng, content), False
        if name.endswith(".json"):
            return "value", spoil_json(rng, content), False
        if name.endswith((".nii", ".nii.gz")) and name != "nifti2.nii":
            return "header", spoil_nifti(rng, content), False
        if name.endswith((".nrrd", ".mha", ".nhdr")):
            return "header", spoil_header(rng, content), False
        if b"\0" not in content:
            return "text", spoil_text(rng, content), False
    how = rng.choice(tuple(BYTES))
    spoil, must_fail = BYTES[how]
    # A chain of bytes that a format allows, or a description of the voxels beside it.
    return how, spoil(rng, content), must_fail and name not in ("image.nhdr", "pair.hdr")


def spoil_dicom(rng: random.Random, content: bytes) -> bytes:
    """Remove an element of a DICOM file, or give it an odd value."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    data = pydicom.dcmread(BytesIO(content))
    places = [*_elements(data), *_elements(data.file_meta)]
    owner, tag = rng.choice(places)
    if rng.random() < 0.3:
        del owner[tag]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                owner[tag].value = rng.choice(ODD_DICOM)
            except (TypeError, ValueError, AttributeError, OverflowError):
                del owner[tag]
    out = BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(out)
    except Exception:  # a value that cannot be written
        return BYTES["flipped"][0](rng, content)
    return out.getvalue()


def _elements(data: Any) -> Iterator[tuple[Any, Any]]:
    for tag in list(data.keys()):
        yield data, tag
        if data[tag].VR == "SQ":
            for item in data[tag].value[:3]:
                yield from _elements(item)
