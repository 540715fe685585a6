"""Bad inputs by kind: good files, ways to spoil each, and the commands that read them.

Everything is drawn from one random generator, so a seed and a number name a case for ever.
"""

from __future__ import annotations

import gzip
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

SIZE = 18
QUICK = "--set levels.spacing_mm=[8.0] --set levels.steps=[1] --set start.search_mm=0 --no-report"
LONG = 100_000


@dataclass
class Case:
    """One bad input.

    Args:
        kind: what is wrong, such as ``image: cut``.
        words: of the command line.
        must_fail: whether nothing but a refusal is right.
        environment: variables that are changed; None removes one.
        redirect: what the shell does with the streams.
    """

    kind: str
    words: list[str]
    must_fail: bool = False
    environment: dict[str, str | None] = field(default_factory=dict)
    redirect: str = ""


# Good files -----------------------------------------------------------------------------------


def good_files(folder: Path) -> None:
    """Write one good file of each role and format."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(SIZE,) * 3), 1.5)
    volume = (1000 * noise / noise.std()).astype(np.int16)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((2.0, 2.0, 2.5))
    labels = sitk.Cast(image > 300, sitk.sitkUInt8) + 2 * sitk.Cast(image < -900, sitk.sitkUInt8)
    for suffix in ("nii", "nii.gz", "mha", "mhd", "nrrd"):
        sitk.WriteImage(image, str(folder / f"image.{suffix}"))
        sitk.WriteImage(labels, str(folder / f"labels.{suffix}"))
    picture = sitk.GetImageFromArray((volume[5] // 20 + 128).astype(np.uint8))
    for suffix in ("png", "jpg", "bmp", "tif"):
        sitk.WriteImage(picture, str(folder / f"picture.{suffix}"))
    vectors = sitk.GetImageFromArray(rng.normal(size=(SIZE,) * 3 + (3,)), isVector=True)
    vectors.CopyInformation(image)
    sitk.WriteImage(sitk.Cast(vectors, sitk.sitkVectorFloat32), str(folder / "field.nii.gz"))
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((1.0, 2.0, 3.0))
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(vectors)])
    for name, transform in (("affine.tfm", affine), ("both.h5", both), ("affine.mat", affine)):
        sitk.WriteTransform(transform, str(folder / name))
    spline = sitk.BSplineTransformInitializer(image, [2, 2, 2])
    sitk.WriteTransform(spline, str(folder / "spline.tfm"))
    _good_texts(folder)


def _good_texts(folder: Path) -> None:
    texts = {
        "points.csv": "x,y,z\n10,12,14\n20,16,18\n8,9,20\n",
        "points.fcsv": "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,10,12,14,0,0,0,1,1,1,0,F-1,,\n",
        "preset.toml": 'schema = 1\nname = "mine"\n[levels]\nspacing_mm = [8.0]\nsteps = [1]\n',
        "table.toml": 'schema = 1\nname = "mine"\n[numbers]\nlung = 1\nbone = 2\n',
        "table.json": '{"labels": {"background": 0, "lung": 1, "bone": 2}}',
        "table.ctbl": "1 lung 255 0 0 255\n2 bone 0 255 0 255\n",
        "table.txt": '1 255 0 0 1 1 1 "lung"\n2 0 255 0 1 1 1 "bone"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    grid = {
        "shape_zyx": [SIZE] * 3,
        "spacing_xyz_mm": [2.0, 2.0, 2.5],
        "origin_lps_mm": [0.0] * 3,
        "direction_lps": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]],
    }
    side = {"runs": [700, 300, SIZE**3 - 1000]}
    pair = {"similarity": 0.9, "fixed": side, "moving": side}
    rois = {"schema": 1, "about": {}, "fixed": grid, "moving": grid, "pairs": [pair]}
    (folder / "rois.json").write_text(json.dumps(rois))
    _good_task(folder)


def _good_task(folder: Path) -> None:
    task = folder / "task"
    (task / "imagesTr").mkdir(parents=True)
    for name in ("T_0001_0000", "T_0001_0001"):
        content = (folder / "image.nii.gz").read_bytes()
        (task / "imagesTr" / f"{name}.nii.gz").write_bytes(content)
    images = [{"image": f"./imagesTr/{n}.nii.gz"} for n in ("T_0001_0000", "T_0001_0001")]
    pair = {"fixed": images[0]["image"], "moving": images[1]["image"]}
    tables = {
        "name": "T",
        "release": "1",
        "tensorImageShape": {"0": [SIZE] * 3},
        "training": images,
        "registration_val": [pair],
        "numRegistration_val": 1,
    }
    (task / "T_dataset.json").write_text(json.dumps(tables))
    shape = (SIZE, SIZE, SIZE, 3)
    with zipfile.ZipFile(folder / "fields.zip", "w") as packed:
        np.savez(folder / "disp_0001_0000_0001_0001.npz", np.zeros(shape, np.float32))
        packed.write(folder / "disp_0001_0000_0001_0001.npz", "disp_0001_0000_0001_0001.npz")


# Ways to spoil bytes --------------------------------------------------------------------------

Spoil = Callable[[random.Random, bytes], bytes]


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(1, max(2, len(content) * 9 // 10))]


def _flip(rng: random.Random, content: bytes) -> bytes:
    spoiled = bytearray(content)
    for _ in range(rng.choice((1, 3, 20))):
        place = rng.randrange(min(len(spoiled), rng.choice((60, 400, len(spoiled)))))
        spoiled[place] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def _overwrite(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    piece = rng.choice((b"\0", b"\xff", b"-", b"9", b"[", b"%s%n")) * rng.choice((1, 4, 64, 4000))
    return content[:place] + piece + content[place + len(piece) :]


def _insert(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(min(len(content), 600))
    return content[:place] + rng.randbytes(rng.choice((1, 8, 500))) + content[place:]


BYTES: dict[str, tuple[Spoil, bool]] = {
    "empty": (lambda rng, content: b"", True),
    "text": (lambda rng, content: b"this is text\n" * rng.choice((1, 9000)), True),
    "noise": (lambda rng, content: rng.randbytes(max(16, len(content))), True),
    "zeros": (lambda rng, content: bytes(len(content)), True),
    "deep": (lambda rng, content: rng.choice((b"[", b'{"a":', b"a=[")) * LONG, True),
    "one line": (lambda rng, content: rng.choice((b"x", b"9", b"\xe9", b"1,")) * LONG, True),
    "gzip noise": (lambda rng, content: gzip.compress(rng.randbytes(3000)), True),
    "cut": (_cut, False),
    "flipped": (_flip, False),
    "overwritten": (_overwrite, False),
    "inserted": (_insert, False),
    "twice": (lambda rng, content: content + content, False),
}

# Ways to spoil text and tables ----------------------------------------------------------------

ODD_NUMBERS = (
    *("nan", "inf", "-inf", "1e999", "-1", "0", "1e-320", "1e30", "-1e30", "3.5", "0x10", "1_0"),
    *("1" + "0" * 40, "9" * 5000, "", "x", "٣", "\x1b[2J", "NaN", "4294967296", "-2147483649"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, [], {}, "", "x" * 300, "\x1b[2J\x1b]0;owned\x07", -1, 0, 3.5, 10**18, 1e300),
    *([[]] * 3, {"a": {}}, [None], "../../etc/passwd", "/etc/passwd", "\0", "\ud800", 2**31),
)


def _spoil_number(rng: random.Random, text: str) -> str:
    places = [i for i, c in enumerate(text) if c.isdigit()]
    if not places:
        return text + rng.choice(ODD_NUMBERS)
    begin = end = rng.choice(places)
    while begin > 0 and (text[begin - 1].isdigit() or text[begin - 1] in ".-"):
        begin -= 1
    while end < len(text) and (text[end].isdigit() or text[end] == "."):
        end += 1
    return text[:begin] + rng.choice(ODD_NUMBERS) + text[end:]


def _spoil_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = rng.choice(
        ("", lines[at] * 2, lines[at].upper(), "\x1b[2J" + lines[at], lines[at].strip() * 5000)
    )
    return "".join(lines)


def _spoil_encoding(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(("utf-16", "utf-32", "utf-7", "cp037")))


def spoil_text(rng: random.Random, content: bytes) -> bytes:
    """Spoil a number, a line, or the encoding of a text."""
    text = content.decode("utf-8", "replace")
    how = rng.choice((_spoil_number, _spoil_number, _spoil_line, _spoil_encoding))
    spoiled = how(rng, text)
    return spoiled if isinstance(spoiled, bytes) else spoiled.encode("utf-8", "surrogateescape")


def spoil_json(rng: random.Random, content: bytes) -> bytes:
    """Drop a key, or put an odd value in some place."""
    tables = json.loads(content)
    places: list[tuple[Any, Any]] = []
    level = [tables]
    while level:
        value = level.pop()
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], dict | list):
                level.append(value[key])
    value, key = rng.choice(places)
    if isinstance(value, dict) and rng.random() < 0.3:
        del value[key]
    else:
        value[key] = rng.choice(ODD_VALUES)
    text = json.dumps(tables)
    return (text if rng.random() < 0.8 else _spoil_number(rng, text)).encode()


NIFTI_FIELDS = {
    "dim": (40, "h", (-1, 0, 2, 4, 7, 8, 32767, -32768)),
    "dim1": (42, "h", (-1, 0, 1, 32767, 19)),
    "dim4": (48, "h", (-1, 0, 2, 500)),
    "datatype": (70, "h", (0, 1, 3, 64, 128, 256, 512, 768, 999, 1536, 2304, -1)),
    "bitpix": (72, "h", (0, 1, 8, 64, -16, 32767)),
    "qfac": (76, "f", (0.0, 5.0, float("nan"))),
    "pixdim1": (80, "f", (0.0, -1.0, 1e30, 1e-44, 1e-30, 1e9, float("nan"), float("inf"))),
    "vox_offset": (108, "f", (-1.0, 1e9, 7.0, float("nan"), float("inf"), 351.0)),
    "slope": (112, "f", (0.0, float("nan"), float("inf"), 1e38, 1e-42, -1.0)),
    "inter": (116, "f", (float("nan"), float("inf"), 1e38)),
    "qform": (252, "h", (0, 1, 5, -1, 99)),
    "sform": (254, "h", (0, 1, 5, -1, 99)),
    "quatern": (256, "f", (2.0, float("nan"), 1e30)),
    "srow": (280, "f", (0.0, float("nan"), 1e30, 1e-30, 5.0)),
    "magic": (344, "4s", (b"ni1\0", b"n+2\0", b"\0\0\0\0")),
    "sizeof_hdr": (0, "i", (0, 540, -1, 1543569408)),
}


def spoil_nifti(rng: random.Random, content: bytes) -> bytes:
    """Set one or two fields of a NIfTI header to odd values."""
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    spoiled = bytearray(plain)
    for name in rng.sample(sorted(NIFTI_FIELDS), rng.choice((1, 1, 2))):
        place, code, values = NIFTI_FIELDS[name]
        struct.pack_into(f"<{code}", spoiled, place, rng.choice(values))
    return gzip.compress(bytes(spoiled), 1) if plain is not content else bytes(spoiled)


def spoil_header(rng: random.Random, content: bytes) -> bytes:
    """Give a key of a text header (MetaImage, NRRD) an odd value."""
    lines = content.split(b"\n")
    keyed = [i for i, line in enumerate(lines[:20]) if b"=" in line or b": " in line]
    at = rng.choice(keyed or [0])
    mark = b"=" if b"=" in lines[at] else b":"
    key = lines[at].split(mark)[0]
    odd = (
        *(n.encode() for n in ODD_NUMBERS),
        *(b"99 99 99", b"-1 -1 -1", b"1e200 1 1", b"%s%n%n 1 99", b"LIST", b"True", b"MET_LONG"),
        *(b"/etc/passwd", b"0 0 0 0 0 0 0 0 0", b"4294967296 1 1", b"x" * LONG),
    )
    lines[at] = key + mark + b" " + rng.choice(odd)
    return b"\n".join(lines)
