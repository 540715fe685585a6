"""Padding of images that were resampled onto turned grids: is it found, and what does it cost?

    python benchmarks/padding.py [--register] [--only NAME]

Every real image at hand is resampled onto grids turned by 3 to 30 degrees about one, two and three
axes, and padded with several values. A row an image: the resampled images, how many of them have
98 % of the voxels told right, the lowest share, and the CPU seconds of the slowest. Ends of the
first grid that meet content on less than a fifth of them are not asked for: where padding has the
value of air, nothing tells them from it. The image as it is, and with its dark parts set to one
value, must be seen whole; what is not is printed as a false finding.

``--register`` then registers turned chests with known truth, and prints the error near the padding.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch
from _cases import DATA
from _verdict_trials import bent, bent_by, grey, halved, lower_third, small
from scipy.ndimage import distance_transform_edt, map_coordinates

import iterreg
from iterreg.geometry import Grid, apply_affine
from iterreg.regions._cut_planes import cut_planes

TURNS_3D = [(3, 0, 0), (7, 0, 0), (15, 0, 0), (30, 0, 0), (0, 3, 0), (0, 10, 0), (0, 20, 0)]
TURNS_3D += [(0, 30, 0), (0, 0, 5), (0, 0, 15), (0, 0, 30), (10, 10, 0), (20, 0, 10), (0, 15, 15)]
TURNS_3D += [(5, 5, 5), (20, 20, 20)]
TURNS_2D = [(3,), (7,), (15,), (30,)]
LEAST_SHARE = 0.2
NEAR_MM = 20.0


def images() -> Iterator[tuple[str, iterreg.Image]]:
    """Every image, by name."""
    thorax = iterreg.read_image(DATA / "thorax4dct" / "fixed.nii.gz")
    yield "thorax", thorax
    yield "thorax, 4 mm", iterreg.read_image(DATA / "thorax4dct_mini" / "fixed.nii.gz")
    yield "abdomen", lower_third(thorax)
    for name in "AB":
        file = DATA / "brain_vxm_pair" / f"subj{name}_t1.nii.gz"
        yield f"brain {name}", halved(iterreg.read_image(file))
    for name in ("067_frame01", "068_frame12"):
        yield f"heart {name}", iterreg.read_image(DATA / "acdc" / f"patient{name}.nii.gz")
    for file in sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))[:4]:
        yield file.name[:15], iterreg.read_image(file)
    for name in ("cbct_360", "cbct_120_shifted"):
        yield name, iterreg.read_image(DATA / "thorax_cbct" / f"{name}.nii.gz")
    for folder in ("prostate_mr", "cardiac_mr", "lung_ct", "abdomen_ct", "aerial"):
        files = sorted((DATA / "samreg2d" / folder).glob("*.png"))
        for file in [f for f in files if "mask" not in f.name and "label" not in f.name][:3]:
            yield f"{folder} {file.stem}", small(grey(iterreg.read_image(file)))
    for file in sorted((DATA / "histology2d_lesions").glob("*.jpg")):
        yield file.stem, small(grey(iterreg.read_image(file)))


def turned(image: iterreg.Image, degrees: tuple[float, ...], value: float) -> iterreg.Image:
    """The image on a grid turned about its middle; what it shows stays where it is."""
    stored = sitk.GetImageFromArray(image.data[0].numpy())
    grid, rank = image.grid, image.grid.rank
    stored.SetSpacing(grid.spacing_xyz_mm)
    stored.SetOrigin(grid.origin_lps_mm)
    stored.SetDirection(np.ravel(grid.direction_lps).tolist())
    turn = sitk.Euler3DTransform() if rank == 3 else sitk.Euler2DTransform()
    turn.SetParameters([*np.deg2rad(degrees), *[0.0] * rank])
    matrix = np.reshape(turn.GetMatrix(), (rank, rank))
    centre = grid.centre_lps_mm
    origin = centre + matrix @ (np.array(grid.origin_lps_mm) - centre)
    direction = matrix @ np.array(grid.direction_lps)
    turned_grid = replace(
        grid, origin_lps_mm=tuple(origin.tolist()), direction_lps=tuple(map(tuple, direction))
    )
    size, spacing = grid.shape_zyx[::-1], grid.spacing_xyz_mm
    where = (origin.tolist(), spacing, direction.ravel().tolist(), value)
    out = sitk.Resample(stored, size, sitk.Transform(), sitk.sitkLinear, *where)
    data = torch.from_numpy(sitk.GetArrayFromImage(out)).unsqueeze(0)
    return replace(image, data=data, grid=turned_grid)


def beyond(image: iterreg.Image, on: Grid) -> list[np.ndarray]:
    """For each end of an image, low and high of each axis, voxels of a grid outside it, in mm."""
    index = np.indices(on.shape_zyx).reshape(on.rank, -1).T.astype(float)
    inverse = np.linalg.inv(image.grid.index_to_lps)
    at = apply_affine(on.index_to_lps, index) @ inverse[:-1, :-1].T + inverse[:-1, -1]
    ends = []
    for k, n in enumerate(image.grid.shape_zyx):
        place = at[:, k].reshape(on.shape_zyx)
        ends += [-0.5 - place, place - n + 0.5]
    return ends


def share_right(image: iterreg.Image, there: iterreg.Image, value: float) -> tuple[float, float]:
    """Share of voxels told right, and the CPU seconds that took."""
    ends = beyond(image, there.grid)
    inside = np.all([end <= 0 for end in ends], 0)
    content = inside & (there.data != value).any(0).numpy()
    asked, left = np.zeros(inside.shape, bool), np.zeros(inside.shape, bool)
    for k, end in enumerate(ends):
        face = image.data[0].numel() / image.grid.shape_zyx[k // 2]
        cuts = (content & (end > -1)).sum() >= LEAST_SHARE * face
        (asked if cuts else left)[end > 0] = True
    canonical, order = there.to_canonical()
    begun = time.process_time()
    seen = cut_planes(canonical.data.numpy(), canonical.grid.spacing_zyx_mm)
    seconds = time.process_time() - begun
    found = np.ones(inside.shape, bool)
    if seen is not None:
        found = order.undo(torch.from_numpy(seen)).numpy()
    return float((found == ~asked)[asked | ~left].mean()), seconds


def row(name: str, image: iterreg.Image) -> tuple[int, int]:
    """Print a row; how many resampled images there are, and how many are told right."""
    low, high = float(image.data.min()), float(image.data.max())
    values = [-1000.0, -1024.0, 0.0] if low < -900 else [0.0, low, -1000.0, high]
    turns = TURNS_3D if image.grid.rank == 3 else TURNS_2D
    told = [
        share_right(image, turned(image, turn, value), value)
        for turn in turns
        for value in dict.fromkeys(values)
    ]
    shares, seconds = zip(*told, strict=True)
    good = sum(share >= 0.98 for share in shares)
    print(f"{name:24} {len(told):4} {good:4} {min(shares):8.4f} {max(seconds):6.2f}", flush=True)
    sample = image.data.numpy().ravel()[::5]
    for percent in (0, 2, 10, 25, 40, 60):
        darkest = float(np.percentile(sample, percent))
        canonical = replace(image, data=image.data.clamp(min=darkest)).to_canonical()[0]
        if cut_planes(canonical.data.numpy(), canonical.grid.spacing_zyx_mm) is not None:
            print(f"  false finding, the darkest {percent} % set to one value")
    return len(told), good


def register() -> None:
    """Print the errors of turned chests, registered to bent copies of the chest."""
    chest = iterreg.read_image(DATA / "thorax4dct_mini" / "fixed.nii.gz")
    u_mm, moving = bent_by(chest, 3, 10.0), bent(chest, 3, 10.0)
    print(
        "\nturn            value  preset    verdict    error mm  near padding  p95  there and back"
    )
    for preset in ("general", "thorax"):
        for turn in ((0, 0, 0), (10, 0, 0), (15, 0, 0), (0, 15, 0), (15, 10, 0), (25, 0, 0)):
            for value in (-1000.0, 0.0):
                fixed = turned(chest, turn, value)
                result = iterreg.optimize_pair(fixed, moving, preset=preset, threads=1)
                inside = np.all([end <= 0 for end in beyond(chest, fixed.grid)], 0)
                tissue = inside & (fixed.data[0].numpy() > -500)
                index = np.argwhere(tissue)[::20]
                lps = apply_affine(fixed.grid.index_to_lps, index.astype(float))
                landed = np.asarray(result.transform.map_points(iterreg.Points(lps)).lps)
                inverse = np.linalg.inv(chest.grid.index_to_lps)
                at = landed @ inverse[:-1, :-1].T + inverse[:-1, -1]
                u = [map_coordinates(one, at.T, order=1, mode="nearest") for one in u_mm[::-1]]
                error = np.linalg.norm(landed + np.stack(u, 1) - lps, axis=1)
                away = distance_transform_edt(inside, sampling=fixed.grid.spacing_zyx_mm)
                near = error[away[tuple(index.T)] < NEAR_MM]
                near = near if any(turn) else error
                back = result.verdict.evidence.inconsistency_p95_mm
                print(
                    f"{turn!s:14} {value:6.0f}  {preset:8}  {result.status.value:9} "
                    f"{error.mean():9.2f} {near.mean():13.2f} {np.percentile(near, 95):5.1f}"
                    f" {back:9.1f}",
                    flush=True,
                )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--register", action="store_true")
    parser.add_argument("--only", metavar="NAME", default="")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    print(f"{'image':24} {'all':>4} {'98 %':>4} {'lowest':>8} {'CPU s':>6}")
    counts = [row(name, image) for name, image in images() if options.only in name]
    if counts:
        total, good = (sum(column) for column in zip(*counts, strict=True))
        print(f"{good} of {total} resampled images have 98 % of their voxels told right")
    if options.register:
        register()


if __name__ == "__main__":
    sys.exit(main())
