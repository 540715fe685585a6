"""convexAdam: MIND mode at its defaults and finer; guided, its nnUNet mode.

The nnUNet mode of the package runs on CUDA alone, so its features (one channel a label, weighted by
size to the power -0.3, times 10) are made here and given to the package's own optimiser. Its grid
needs 18 voxels an axis: shorter axes are padded by the last slice, and the field is cropped.
"""

from __future__ import annotations

import convexAdam.convex_adam_MIND as package
import numpy as np
import SimpleITK as sitk
import torch
from common import Request, index_field, read, request, write

LEAST_VOXELS = 24
SETTINGS = {
    "recommended": {},
    "tuned": {"grid_sp": 4, "disp_hw": 6, "selected_niter": 200, "lambda_weight": 0.75},
}


def main() -> None:
    """Register; an affine step is not part of it."""
    asked = request()
    torch.set_num_threads(asked.threads)
    fixed, moving = read(asked.fixed), read(asked.moving)
    if fixed.GetSize() != moving.GetSize():
        moving_on_fixed = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear)
    else:
        moving_on_fixed = moving
    arrays = [sitk.GetArrayFromImage(image) for image in (fixed, moving_on_fixed)]
    pads = [(0, max(0, LEAST_VOXELS - n)) for n in arrays[0].shape]
    if asked.labels:
        package.extract_features = label_features(asked, fixed, pads)
    padded = [torch.from_numpy(np.pad(a, pads, mode="edge")) for a in arrays]
    displacement = package.convex_adam_pt(
        *padded, dtype=torch.float32, device=torch.device("cpu"), **SETTINGS[asked.setting]
    )
    inside = tuple(slice(n) for n in arrays[0].shape)
    write(index_field(displacement[inside], fixed, moving_on_fixed), asked)


def label_features(asked: Request, grid: sitk.Image, pads: list[tuple[int, int]]):
    """What stands in for the package's features."""
    maps = []
    for path in asked.labels or ():
        labels = sitk.ReadImage(str(path), sitk.sitkInt32)
        if labels.GetSize() != grid.GetSize():
            labels = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        array = np.pad(sitk.GetArrayFromImage(labels), pads, mode="edge")
        maps.append(torch.from_numpy(array).long())
    present = torch.unique(torch.stack(maps))
    size = torch.stack([sum((m == v).sum() for m in maps) for v in present]).float()
    weight = size.pow(-0.3)
    weight /= weight.mean()
    features = [
        torch.stack([10 * w * (m == v) for v, w in zip(present, weight, strict=True)])[None]
        for m in maps
    ]

    def given(*_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor]:
        return features[0].float(), features[1].float()

    return given


if __name__ == "__main__":
    main()
