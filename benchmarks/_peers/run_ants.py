"""ANTs through antspyx: SyN at the package's defaults, and antsRegistrationSyN (CC) for quality.

Guided, its own label_image_registration, quick and full. It takes label maps of an unsigned type
for empty and answers with a warp of zero, so they are given as float.
"""

from __future__ import annotations

import tempfile

import ants
import SimpleITK as sitk
from common import Request, request, write


def main() -> None:
    """Register; the chain of transforms becomes one field."""
    asked = request()
    paths = (asked.fixed, asked.moving)
    fixed, moving = (ants.image_read(str(path), pixeltype="float") for path in paths)
    with tempfile.TemporaryDirectory() as scratch:
        guided = asked.labels is not None
        register = by_labels if guided else by_images
        chain = register(asked, fixed, moving, f"{scratch}/")
        total = ants.apply_transforms(fixed, moving, chain, compose=f"{scratch}/total")
        write(sitk.ReadImage(total), asked)


def by_images(
    asked: Request, fixed: ants.ANTsImage, moving: ants.ANTsImage, prefix: str
) -> list[str]:
    """Intensities alone."""
    kind = {
        ("recommended", False): "SyN",
        ("recommended", True): "SyNOnly",
        ("tuned", False): "antsRegistrationSyN[s]",
        ("tuned", True): "antsRegistrationSyN[so]",
    }[asked.setting, asked.aligned]
    start = {"initial_transform": "Identity"} if asked.aligned else {}
    result = ants.registration(
        fixed, moving, type_of_transform=kind, outprefix=prefix, random_seed=1, **start
    )
    return result["fwdtransforms"]


def by_labels(
    asked: Request, fixed: ants.ANTsImage, moving: ants.ANTsImage, prefix: str
) -> list[str]:
    """Intensities and label maps."""
    start: str | list[str] = "identity"
    if not asked.aligned:
        affine = ants.registration(
            fixed, moving, type_of_transform="Affine", outprefix=f"{prefix}affine", random_seed=1
        )
        start = affine["fwdtransforms"]
    labels = [ants.image_read(str(path), pixeltype="float") for path in asked.labels or ()]
    quick = "Quick" if asked.setting == "recommended" else ""
    result = ants.label_image_registration(
        labels[0],
        labels[1],
        fixed,
        moving,
        initial_transforms=start,
        type_of_deformable_transform=f"antsRegistrationSyN{quick}[so]",
        output_prefix=prefix,
    )
    return result["fwdtransforms"]


if __name__ == "__main__":
    main()
