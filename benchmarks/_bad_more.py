"""Bad inputs of further kinds: bombs, tables of pairs, series in time, packed DICOM, odd scales."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
from _bad_kinds import BYTES, ODD_NUMBERS, QUICK, SIZE, Case, spoil_nifti, spoil_text
from _bad_medical import SERIES, spoil_dicom

GOOD = "{good}/"
PAIR = f"register --preset general --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz {QUICK}"
APPLY = (
    f"apply --transform {GOOD}affine.tfm --reference {GOOD}image.nii.gz --image {{bad}} "
    "--out o.nii.gz"
)
SETS = QUICK.replace(" --no-report", "")
BOMB_BYTES = 1 << 30
"""What a small file claims to hold, or does hold once it is unpacked."""


def further(rng: random.Random, good: Path, folder: Path) -> Case:
    """Draw a case of these kinds."""
    return rng.choice(KINDS)(rng, good, folder)


# Files that ask for much more than they are ---------------------------------------------------


def _zeros(count: int) -> bytes:
    """A gzip stream of zeros."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    piece = bytes(1 << 20)
    parts = [packer.compress(piece) for _ in range(count >> 20)]
    return b"".join([*parts, packer.flush()])


def _nifti_bomb(rng: random.Random, good: Path, bad: Path) -> str:
    head = gzip.decompress((good / "image.nii.gz").read_bytes())[:352]
    if rng.random() < 0.5:
        head = bytearray(head)
        struct.pack_into("<3h", head, 42, 1000, 1000, 500)
    bad.write_bytes(gzip.compress(bytes(head)) + _zeros(BOMB_BYTES >> rng.choice((0, 4))))
    return APPLY


def _sparse_transform(rng: random.Random, good: Path, bad: Path) -> str:
    count = rng.choice((10**6, 10**8, 10**9))
    with h5py.File(bad, "w") as file:
        group = file.create_group("TransformGroup/0")
        kind = rng.choice(("DisplacementFieldTransform", "AffineTransform", "BSplineTransform"))
        group["TransformType"] = [f"{kind}_double_3_3".encode()]
        size = round((count / 3) ** (1 / 3))
        group["TransformFixedParameters"] = np.array(
            [*[size] * 3, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1], float
        )
        group.create_dataset(
            "TransformParameters", (count,), "f8", chunks=(1 << 16,), compression="gzip"
        )
    return f"apply --transform {{bad}} --points {GOOD}points.csv --out o.csv"


def _picture_bomb(rng: random.Random, good: Path, bad: Path) -> str:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    side = rng.choice((1 << 15, 1 << 20))
    header = struct.pack(">IIBBBBB", side, side, rng.choice((1, 8, 16)), 0, 0, 0, 0)
    packed = zlib.compress(bytes(rng.choice((10, 1 << 26))))
    parts = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return f"register --preset general --fixed {{bad}} --moving {GOOD}picture.png {QUICK} --out out"


def _zip_bomb(rng: random.Random, good: Path, bad: Path) -> str:
    name = "disp_0001_0000_0001_0001.npz"
    with (
        zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(rng.choice((64, 512))):
            member.write(bytes(1 << 20))
    return "learn2reg check {bad} --task {good}/task"


def _numpy_bomb(rng: random.Random, good: Path, bad: Path) -> str:
    shape = rng.choice(((10**5,) * 3 + (3,), (SIZE, SIZE, SIZE, 10**9), (2**62, 2**62)))
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(99)
    with zipfile.ZipFile(bad, "w") as packed:
        packed.writestr("arr_0.npy", array)
    return f"convert --transform {{bad}} --fixed {GOOD}image.nii.gz --moving {GOOD}image.nii.gz " \
        "--out o.h5"  # fmt: skip


BOMBS: dict[str, Callable[[random.Random, Path, Path], str]] = {
    "bomb.nii.gz": _nifti_bomb,
    "sparse.h5": _sparse_transform,
    "bomb.png": _picture_bomb,
    "bomb.zip": _zip_bomb,
    "bomb.npz": _numpy_bomb,
}


def _bomb(rng: random.Random, good: Path, folder: Path) -> Case:
    name = rng.choice(tuple(BOMBS))
    line = BOMBS[name](rng, good, folder / name)
    return Case(f"bomb: {name}", line.format(good=good, bad=name).split(), True)


# Many pairs, and series in time ---------------------------------------------------------------


def _cohort(rng: random.Random, good: Path, folder: Path) -> Case:
    rows = [
        "id,fixed,moving,preset,levels.steps",
        f"a,{good}/image.nii.gz,{good}/image.mha,general,[1]",
        f"b,{good}/image.nrrd,{good}/image.nii,general,[1]",
    ]
    text = "\n".join(rows).encode() + b"\n"
    how = rng.choice(("text", *BYTES))
    spoiled, must_fail = (
        (spoil_text(rng, text), False)
        if how == "text"
        else (BYTES[how][0](rng, text), BYTES[how][1])
    )
    (folder / "pairs.csv").write_bytes(spoiled)
    line = f"cohort run pairs.csv --out out {SETS} --check"
    return Case(f"cohort: {how}", line.split(), must_fail)


def _motion(rng: random.Random, good: Path, folder: Path) -> Case:
    volume = gzip.decompress((good / "image.nii.gz").read_bytes())
    line = f"motion {{bad}} --preset general {QUICK} --out out"
    if rng.random() < 0.5:
        whole = bytearray(volume + volume[352:])
        struct.pack_into("<5h", whole, 40, 4, SIZE, SIZE, SIZE, 2)
        spoiled = spoil_nifti(rng, bytes(whole))
        if rng.random() < 0.4:
            spoiled = BYTES[rng.choice(tuple(BYTES))][0](rng, bytes(whole))
        (folder / "series.nii").write_bytes(spoiled)
        return Case("motion: file", line.format(bad="series.nii").split())
    (folder / "series").mkdir()
    for n in range(2):
        shutil.copy(good / "image.nii.gz", folder / "series" / f"{n}.nii.gz")
    how = rng.choice(tuple(BYTES))
    (folder / "series" / rng.choice(("1.nii.gz", "2.nii.gz"))).write_bytes(
        BYTES[how][0](rng, volume)
    )
    return Case(f"motion: folder, {how}", line.format(bad="series").split())


# Packed DICOM, named labels, scales, results --------------------------------------------------


def _packed_dicom(rng: random.Random, good: Path, folder: Path) -> Case:
    bad = folder / "packed"
    shutil.copytree(good / "series", bad)
    for path in bad.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(path)
    slices = sorted(bad.iterdir())
    how = rng.choice((*SERIES, "pixels", "syntax"))
    if how in SERIES:
        SERIES[how](rng, bad, slices)
    else:
        for path in slices if rng.random() < 0.5 else slices[:1]:
            content = path.read_bytes()
            if how == "pixels":
                place = rng.randrange(len(content) * 2 // 3, len(content) - 8)
                path.write_bytes(content[:place] + rng.randbytes(8) + content[place + 8 :])
            else:
                other = rng.choice((b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.70", b"1.2.3"))
                path.write_bytes(content.replace(b"1.2.840.10008.1.2.5\0", other.ljust(20, b"\0")))
    line = f"apply --transform {GOOD}affine.tfm --reference {GOOD}image.nii.gz --image packed " \
        "--out o.nii.gz"  # fmt: skip
    return Case(f"packed DICOM: {how}", line.format(good=good).split())


def _named_labels(rng: random.Random, good: Path, folder: Path) -> Case:
    labels = nibabel.load(good / "labels.nii.gz")
    rows = "".join(
        f'<Label Key="{n}" R="1"><![CDATA[{name}]]></Label>'
        for n, name in ((1, "lung"), (2, rng.choice(("bone", "lung", "\x1b[2J", "", "x" * 9999))))
    )
    text = f"<?xml version='1.0'?><CaretExtension><LabelTable>{rows}</LabelTable>".encode()
    spoiled = spoil_text(rng, text) if rng.random() < 0.6 else text * rng.choice((1, 4000))
    written = nibabel.Nifti1Image(np.asarray(labels.dataobj), labels.affine)
    written.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", spoiled))
    nibabel.save(written, folder / "named.nii.gz")
    line = f"{PAIR} --fixed-labels named.nii.gz --moving-labels {GOOD}labels.nii.gz --out out"
    if rng.random() < 0.5:
        line = f"evaluate --fixed-labels {GOOD}labels.nii.gz --moving-labels named.nii.gz"
    return Case("named labels: extension", line.format(good=good).split())


def _scale(rng: random.Random, good: Path, folder: Path) -> Case:
    factors = rng.choices((1e-6, 1e-3, 0.02, 1.0, 50.0, 1e3, 1e6), k=2)
    for name, factor in zip(("fixed", "moving"), factors, strict=True):
        image = nibabel.load(good / "image.nii.gz")
        affine = image.affine * np.array([[factor], [factor], [factor], [1.0]])
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), folder / f"{name}.nii")
    preset = rng.choice(("general", "brain", "lung", "cardiac"))
    line = f"register --preset {preset} --fixed fixed.nii --moving moving.nii {QUICK} --out out"
    return Case(f"scale: {factors[0]:g} and {factors[1]:g}", line.split())


def _points(rng: random.Random, good: Path, folder: Path) -> Case:
    factor = rng.choice((-1.0, 10.0, 1e-3, 1e8, 0.0))
    rows = [(10.0, 12.0, 14.0), (20.0, 16.0, 18.0), (8.0, 9.0, 20.0)][: rng.choice((1, 3))]
    lines = [",".join(f"{factor * v:g}" for v in row) for row in rows]
    (folder / "p.csv").write_text("\n".join([rng.choice(("x,y,z", "r,a,s", "x,y")), *lines]) + "\n")
    line = rng.choice(
        (
            f"{PAIR} --fixed-landmarks p.csv --moving-landmarks p.csv --out out",
            f"apply --transform {GOOD}both.h5 --points p.csv --out o.csv",
            f"apply --transform {GOOD}both.h5 --points p.csv --out o.csv --inverse "
            f"--reference {GOOD}image.nii.gz",
            f"evaluate --transform {GOOD}both.h5 --fixed-landmarks p.csv --moving-landmarks p.csv",
        )
    )
    return Case(f"points: times {factor:g}", line.format(good=good).split())


def _result(rng: random.Random, good: Path, folder: Path) -> Case:
    tables = {"schema": 2, "fixed": {"file": str(good / "series")}, "moving": {"file": "x"}}
    text = json.dumps(tables).encode()
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_bytes(spoil_text(rng, text))
    shutil.copy(good / "both.h5", folder / "run" / "transform.h5")
    extra = ["--rtstruct", str(good / "structures.dcm")] if rng.random() < 0.5 else []
    if extra and rng.random() < 0.5:
        bad = folder / "s.dcm"
        bad.write_bytes(spoil_dicom(rng, (good / "structures.dcm").read_bytes()))
        extra[1] = bad.name
    given = ["--fixed", str(good / "series"), "--moving", str(good / "series")]
    line = rng.choice(("dicom export run --out o", "report run --out o.html", "report run"))
    words = line.split() + ([*given, *extra] if line.startswith("dicom") else [])
    return Case(f"result: {words[0]}", words)


COHORT_OPTIONS = (
    *(("--shard", value) for value in ("0/1", "2/1", "1", "x/y", "9" * 5000 + "/1")),
    *(("--jobs", value) for value in ODD_NUMBERS),
    *(("--memory", value) for value in ODD_NUMBERS),
    *(("--bids", value) for value in (".", "gone", "\x1b[2J", "/dev/null")),
    *(("--scheduler", value) for value in ("", "x", "tcp://127.0.0.1:1", "\x1b[2J")),
)


def _cohort_option(rng: random.Random, good: Path, folder: Path) -> Case:
    (folder / "pairs.csv").write_text(f"id,fixed,moving\na,{good}/image.nii.gz,{good}/image.mha\n")
    name, value = rng.choice(COHORT_OPTIONS)
    line = f"cohort run pairs.csv --preset general --out out {SETS} --no-report --check"
    return Case(f"cohort: {name}", [*line.split(), name, value.replace("\0", "")])


KINDS = (
    *(_bomb, _cohort, _motion, _packed_dicom, _named_labels, _scale, _points, _result),
    _cohort_option,
)
