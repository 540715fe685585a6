"""FireANTs on the CPU: greedy with the package's own smoothing, SyN with less of it and more steps.

Guided, each label is one more channel beside the image.
"""

from __future__ import annotations

import sys

import SimpleITK as sitk
import torch
from common import Request, masks, read, request, write
from fireants.io.image import BatchedImages, Image
from fireants.registration.affine import AffineRegistration
from fireants.registration.greedy import GreedyRegistration
from fireants.registration.syn import SyNRegistration

LEAST_VOXELS = 32
"""The package's own least size of a level; a smaller image ends in shapes that differ."""
SCALES = [4, 2, 1]


def main() -> None:
    """Affine where the pair needs one, then deformable; written as one field."""
    asked = request()
    torch.set_num_threads(asked.threads)
    pair = [read(path) for path in (asked.fixed, asked.moving)]
    least = min(min(image.GetSize()) for image in pair)
    if least < LEAST_VOXELS:
        sys.exit(f"no axis may have fewer than {LEAST_VOXELS} voxels in its pyramid, here {least}")
    start = None if asked.aligned else affine(pair)
    method = registration(asked, pair, start)
    method.optimize()
    method.save_as_ants_transforms(str(asked.out))
    write(sitk.ReadImage(str(asked.out)), asked)


def affine(pair: list[sitk.Image]) -> torch.Tensor:
    """The affine matrix by local correlation."""
    found = AffineRegistration(
        SCALES,
        [200, 100, 50],
        *(batch([image]) for image in pair),
        optimizer="Adam",
        optimizer_lr=3e-3,
        loss_type="cc",
        cc_kernel_size=5,
        progress_bar=False,
    )
    found.optimize()
    return found.get_affine_matrix().detach()


def registration(
    asked: Request, pair: list[sitk.Image], start: torch.Tensor | None
) -> GreedyRegistration | SyNRegistration:
    """The deformable step."""
    channels = [[scaled(image)] for image in pair]
    for masks_of_label in masks(asked.labels) if asked.labels else []:
        for side, mask in zip(channels, masks_of_label, strict=True):
            side.append(mask)
    images = [batch(side) for side in channels]
    common = dict(
        loss_type="cc",
        cc_kernel_size=5,
        deformation_type="compositive",
        optimizer="Adam",
        optimizer_lr=0.5,
        smooth_grad_sigma=1.0,
        init_affine=start,
        progress_bar=False,
    )
    if asked.setting == "recommended":
        return GreedyRegistration(SCALES, [200, 100, 25], *images, smooth_warp_sigma=0.5, **common)
    return SyNRegistration(SCALES, [200, 100, 50], *images, smooth_warp_sigma=0.25, **common)


def scaled(image: sitk.Image) -> sitk.Image:
    """Intensities from 0 to 1, as masks have them."""
    return sitk.RescaleIntensity(image, 0, 1)


def batch(channels: list[sitk.Image]) -> BatchedImages:
    """One image of several channels."""
    first, *others = [Image(image, device="cpu") for image in channels]
    if others:
        first.concatenate(*others)
    return BatchedImages([first])


if __name__ == "__main__":
    main()
