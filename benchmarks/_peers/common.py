"""What every method's program is told, and how it hands back its field."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class Request:
    """One registration.

    Args:
        fixed, moving: images.
        labels: label maps of both, or None.
        aligned: whether the pair needs no affine step.
        setting: ``recommended`` or ``tuned``.
        preset: the kind of pair; for iterreg.
        threads: CPU threads.
        out: where the displacement field goes: a vector image on the fixed grid, LPS mm.
    """

    fixed: Path
    moving: Path
    labels: tuple[Path, Path] | None
    aligned: bool
    setting: str
    preset: str
    threads: int
    out: Path


def request() -> Request:
    """The command line."""
    parser = argparse.ArgumentParser()
    for name in ("fixed", "moving", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--labels", type=Path, nargs=2)
    parser.add_argument("--aligned", action="store_true")
    parser.add_argument("--setting", choices=["recommended", "tuned"], default="recommended")
    parser.add_argument("--preset", default="general")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    labels = None if asked.labels is None else (asked.labels[0], asked.labels[1])
    return Request(
        asked.fixed,
        asked.moving,
        labels,
        asked.aligned,
        asked.setting,
        asked.preset,
        asked.threads,
        asked.out,
    )


def read(path: Path) -> sitk.Image:
    """An image as float32."""
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def masks(labels: tuple[Path, Path]) -> list[tuple[sitk.Image, sitk.Image]]:
    """A pair of float masks for each label of both maps, 0 left out."""
    maps = [sitk.ReadImage(str(path)) for path in labels]
    found = [set(np.unique(sitk.GetArrayViewFromImage(m)).tolist()) - {0} for m in maps]
    pairs = []
    for value in sorted(found[0] & found[1]):
        fixed, moving = (sitk.Cast(m == value, sitk.sitkFloat32) for m in maps)
        pairs.append((fixed, moving))
    return pairs


def index_field(displacement: np.ndarray, fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """A vector image in LPS mm of a displacement in voxels.

    Args:
        displacement: (Z, Y, X, 3), moving index minus fixed index, components (z, y, x).
        fixed, moving: the images.
    """
    start = np.moveaxis(np.indices(displacement.shape[:3]), 0, -1)
    ends = []
    for image, index in ((fixed, start), (moving, start + displacement)):
        scale = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        ends.append(index[..., ::-1] @ scale.T + np.array(image.GetOrigin()))
    field = sitk.GetImageFromArray((ends[1] - ends[0]).astype(np.float32), isVector=True)
    field.CopyInformation(fixed)
    return field


def write(field: sitk.Image, asked: Request) -> None:
    """Write the field, uncompressed: compression is no part of a registration."""
    sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(asked.out))
