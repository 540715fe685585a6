"""A cone-beam scan of a real CT, simulated: projections, scatter, photon noise, reconstruction.

    python benchmarks/_cone_beam.py CT.nii.gz OUT.nii.gz [options]

Needs a Python of its own with itk-rtk and scipy. The gantry turns once about the patient's long
axis. A flat panel measures line integrals; scatter is added where there is matter, and a part of it
is taken away again, as scanners do; photons are counted; Feldkamp's method reconstructs. With
``--second`` a share of every breath sees another state, which blurs. ``--shift`` and ``--turn``
move the patient, as on another couch, about the middle of the CT.

Beside OUT lie OUT's ``_view.nii.gz``, the voxels that every projection sees, known from geometry,
and ``.json`` with the geometry and ``truth_lps``, the matrix from the CT's space to the scan's.
Everything that is made so is a simulation, and is to be called one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import itk
import numpy as np
from itk import RTK
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

WATER_PER_MM = 0.0195
"""Attenuation of water at about 70 keV."""
SCATTER_SPREAD_PIXELS, SCATTER_SHARE = 40, 0.012
BREATHS = 15
IMAGE = itk.Image[itk.F, 3]
PIXEL_MM = 1.55


@dataclass(frozen=True)
class Scanner:
    """Distances in mm.

    Args:
        source_axis_mm, source_detector_mm: from the source to the axis and to the panel.
        columns, rows: pixels of the panel.
        panel_shift_mm: of the panel's middle, across the axis: 0 full-fan, 148 half-fan.
    """

    source_axis_mm: float = 1000.0
    source_detector_mm: float = 1500.0
    columns: int = 256
    rows: int = 192
    panel_shift_mm: float = -148.0

    @property
    def radius_mm(self) -> float:
        """Of the cylinder that all projections see."""
        half = self.columns * PIXEL_MM / 2 + abs(self.panel_shift_mm)
        return self.source_axis_mm * float(np.sin(np.arctan(half / self.source_detector_mm)))

    @property
    def half_height_mm(self) -> float:
        """Of what is seen on the axis."""
        return self.rows * PIXEL_MM / 2 * self.source_axis_mm / self.source_detector_mm


def main() -> None:
    """Make one scan."""
    asked = command_line()
    scanner = Scanner(rows=asked.rows, columns=asked.columns, panel_shift_mm=asked.panel_shift)
    ct = itk.imread(asked.ct, itk.F)
    truth = couch(ct, asked.shift, asked.turn)
    turn = Rotation.from_euler("xyz", asked.turn, degrees=True).as_matrix()
    arc = RTK.ThreeDCircularProjectionGeometry.New()
    for k in range(asked.projections):
        degrees = 360.0 * k / asked.projections
        arc.AddProjection(
            scanner.source_axis_mm, scanner.source_detector_mm, degrees, scanner.panel_shift_mm, 0.0
        )
    line = projected(attenuation(ct, turn), arc, scanner, asked.projections)
    if asked.second:
        other = attenuation(itk.imread(asked.second, itk.F), turn)
        breath = (np.arange(asked.projections) * BREATHS / asked.projections) % 1 < asked.share
        line[breath] = projected(other, arc, scanner, asked.projections)[breath]
    line = detected(line, asked, np.random.default_rng(asked.seed))
    size = [int(n * 2.0 / asked.spacing) for n in (230, 112, 230)]
    size[0] = size[2] = min(size[0], int(2 * scanner.radius_mm / asked.spacing) + 6)
    hu = 1000 * (reconstructed(line, arc, scanner, size, asked.spacing) / WATER_PER_MM - 1)
    hu = asked.scale * hu + asked.offset
    z, y, x = (asked.spacing * (np.arange(n) - (n - 1) / 2) for n in hu.shape)
    radius = np.hypot(y[:, None], x)
    hu[:, radius > scanner.radius_mm] = asked.padding
    slope = 1 - radius / scanner.source_axis_mm
    view = (np.abs(z)[:, None, None] <= scanner.half_height_mm * slope) & (
        radius <= scanner.radius_mm
    )
    keep(hu, view, ct, truth, asked)
    about = asdict(scanner) | {"truth_lps": truth.tolist(), "pixel_mm": PIXEL_MM}
    stem(asked.out).with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")


def command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct")
    parser.add_argument("out", type=Path)
    parser.add_argument("--projections", type=int, default=360)
    parser.add_argument("--photons", type=float, default=2e5)
    parser.add_argument("--scatter", type=float, default=1.0)
    parser.add_argument("--corrected", type=float, default=0.6)
    parser.add_argument("--second")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--shift", type=float, nargs=3, default=(0, 0, 0), help="mm")
    parser.add_argument("--turn", type=float, nargs=3, default=(0, 0, 0), help="degrees")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--panel-shift", type=float, default=-148.0)
    parser.add_argument("--padding", type=float, default=-1024.0)
    parser.add_argument("--scale", type=float, default=1.0, help="of HU")
    parser.add_argument("--offset", type=float, default=0.0, help="of HU")
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def stem(path: Path) -> Path:
    """The path without .nii.gz."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii"))


def couch(ct: Any, shift_mm: tuple[float, ...], turn_deg: tuple[float, ...]) -> np.ndarray:
    """The matrix (4, 4) from the CT's space to the scan's, LPS mm."""
    middle = middle_of(ct)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + np.array(shift_mm)
    return matrix


def middle_of(ct: Any) -> np.ndarray:
    """The middle of an axis-aligned image, LPS mm."""
    size = np.array(ct.GetLargestPossibleRegion().GetSize())
    return np.array(ct.GetOrigin()) + np.array(ct.GetSpacing()) * (size - 1) / 2


def centred(array: np.ndarray, spacing: tuple[float, ...]) -> Any:
    """An image around the isocentre."""
    image = itk.image_from_array(np.ascontiguousarray(array, dtype=np.float32))
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([-s * (n - 1) / 2 for s, n in zip(spacing, array.shape[::-1], strict=True)])
    return image


def attenuation(ct: Any, turn: np.ndarray) -> Any:
    """The CT as the scanner sees it: per mm, its long axis along the gantry's."""
    from scipy.ndimage import affine_transform

    per_mm = np.clip(WATER_PER_MM * (1 + itk.array_from_image(ct) / 1000), 0, None)
    spacing = np.array(ct.GetSpacing())[::-1]
    if not np.allclose(turn, np.eye(3)):
        back = np.diag(1 / spacing) @ turn.T[::-1, ::-1] @ np.diag(spacing)
        middle = (np.array(per_mm.shape) - 1) / 2
        per_mm = affine_transform(per_mm, back, middle - back @ middle, order=1, mode="nearest")
    z, y, x = spacing
    return centred(per_mm.transpose(1, 0, 2), (x, z, y))


def panel(scanner: Scanner, array: np.ndarray) -> Any:
    """Projections as an image."""
    image = itk.image_from_array(array.astype(np.float32))
    image.SetSpacing([PIXEL_MM, PIXEL_MM, 1.0])
    image.SetOrigin(
        [-PIXEL_MM * (scanner.columns - 1) / 2, -PIXEL_MM * (scanner.rows - 1) / 2, 0.0]
    )
    return image


def projected(volume: Any, arc: Any, scanner: Scanner, count: int) -> np.ndarray:
    """Line integrals, (projections, rows, columns)."""
    forward = RTK.JosephForwardProjectionImageFilter[IMAGE, IMAGE].New()
    forward.SetGeometry(arc)
    forward.SetInput(0, panel(scanner, np.zeros((count, scanner.rows, scanner.columns))))
    forward.SetInput(1, volume)
    forward.Update()
    return itk.array_from_image(forward.GetOutput()).copy()


def detected(line: np.ndarray, asked: Any, rng: np.random.Generator) -> np.ndarray:
    """Line integrals as the panel gives them back: scattered where there is matter, and noisy."""
    # Scatter is smooth: every fourth pixel shows all of it.
    few = asked.photons * np.exp(-line[:, ::4, ::4]) * line[:, ::4, ::4]
    few = gaussian_filter(few, (0, SCATTER_SPREAD_PIXELS / 4, SCATTER_SPREAD_PIXELS / 4))
    spread = np.repeat(np.repeat(few, 4, 1), 4, 2)[:, : line.shape[1], : line.shape[2]]
    spread *= SCATTER_SHARE * asked.scatter
    counts = rng.poisson(asked.photons * np.exp(-line) + spread) - asked.corrected * spread
    return np.clip(-np.log(np.clip(counts, 1, None) / asked.photons), 0, None)


def reconstructed(
    line: np.ndarray, arc: Any, scanner: Scanner, size: list[int], spacing: float
) -> np.ndarray:
    """Attenuation per mm, (z, y, x), by Feldkamp's method for a displaced panel."""
    half = RTK.DisplacedDetectorImageFilter[IMAGE].New()
    half.SetInput(panel(scanner, line))
    half.SetGeometry(arc)
    method = RTK.FDKConeBeamReconstructionFilter[IMAGE].New()
    method.SetInput(0, centred(np.zeros(size[::-1]), (spacing,) * 3))
    method.SetInput(1, half.GetOutput())
    method.SetGeometry(arc)
    method.GetRampFilter().SetTruncationCorrection(0.3)
    method.GetRampFilter().SetHannCutFrequency(0.8)
    method.Update()
    return itk.array_from_image(method.GetOutput()).transpose(1, 0, 2)


def keep(hu: np.ndarray, view: np.ndarray, ct: Any, truth: np.ndarray, asked: Any) -> None:
    """Write the scan and its view, at the place where the couch puts them."""
    extent = asked.spacing * (np.array(hu.shape[::-1]) - 1)
    origin = middle_of(ct) - extent / 2 + np.array(asked.shift)
    for array, path in (
        (np.clip(np.rint(hu), -4000, 3071).astype(np.int16), asked.out),
        (view.astype(np.uint8), stem(asked.out).with_name(stem(asked.out).name + "_view.nii.gz")),
    ):
        image = itk.image_from_array(np.ascontiguousarray(array))
        image.SetSpacing([asked.spacing] * 3)
        image.SetOrigin([float(v) for v in origin])
        itk.imwrite(image, str(path), compression=True)


if __name__ == "__main__":
    main()
