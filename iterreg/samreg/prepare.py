"""Prepare pictures for a variant's encoder, and points of a picture for its prompt encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as nnf

from iterreg.errors import ImageContentError
from iterreg.samreg.segmenter import Embedding
from iterreg.samreg.variants import PATCH_PX, VariantSpec


def prepare(picture: Tensor, spec: VariantSpec) -> tuple[Tensor, tuple[float, float]]:
    """Resize, normalise and pad a picture for the encoder.

    Args:
        picture: (H, W, 3) uint8 RGB.
        spec: the variant.

    Returns:
        (3, S, S) float32, and the part of it that shows the picture, as fractions of its height
        and width.

    Raises:
        ImageContentError: the picture's short side is smaller than a patch, before or after
            resizing.
    """
    if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"picture: expected (H, W, 3) uint8, got {tuple(picture.shape)}")
    height, width = resized_hw((picture.shape[0], picture.shape[1]), spec)
    x = picture.permute(2, 0, 1).to(torch.float32)
    x = _normalise(_resize(x, (height, width), spec), spec)
    side = spec.input_px
    return nnf.pad(x, (0, side - width, 0, side - height)), (height / side, width / side)


def resized_hw(size_hw: tuple[int, int], spec: VariantSpec) -> tuple[int, int]:
    """Compute the picture's height and width within the encoder's input.

    Args:
        size_hw: the picture's height and width in pixels.
        spec: the variant.

    Raises:
        ImageContentError: as :func:`prepare`.
    """
    height, width = size_hw
    side = spec.input_px
    if spec.resize == "stretch":
        new = (side, side)
    else:
        scale = side / max(1, height, width)
        new = (int(height * scale + 0.5), int(width * scale + 0.5))
    if min(height, width, *new) < PATCH_PX:
        raise ImageContentError(
            f"picture of {width} x {height} pixels: expected at least {PATCH_PX} x {PATCH_PX}, and "
            f"a long side at most {side // PATCH_PX} times the short one: {spec.name} works on "
            f"patches of {PATCH_PX} x {PATCH_PX} pixels"
        )
    return new


def input_points(points_xy: Tensor, embedding: Embedding, spec: VariantSpec) -> Tensor:
    """Convert points of the picture to pixels of the encoder's input.

    The prompt encoder adds half a pixel, so it expects the centre of the first pixel at 0.

    Args:
        points_xy: (N, 2) in the picture, the first pixel's centre at (0.5, 0.5).
        embedding: of the picture.
        spec: the variant.

    Returns:
        (N, 2) float32.
    """
    (height, width), (valid_h, valid_w) = embedding.size_hw, embedding.valid_hw
    scale = [valid_w * spec.input_px / width, valid_h * spec.input_px / height]
    points = points_xy.to(torch.float32)
    return points * points.new_tensor(scale) - 0.5


def _resize(x: Tensor, size_hw: tuple[int, int], spec: VariantSpec) -> Tensor:
    if spec.interpolation == "nearest-exact":
        return nnf.interpolate(x[None], size_hw, mode="nearest-exact")[0]
    low, high = x.amin(), x.amax()
    x = nnf.interpolate(
        x[None], size_hw, mode=spec.interpolation, align_corners=False, antialias=True
    )[0]
    # Bicubic interpolation overshoots.
    return x.clamp(low, high)


def _normalise(x: Tensor, spec: VariantSpec) -> Tensor:
    if spec.mean is None or spec.std is None:
        low, high = x.amin(), x.amax()
        return (x - low) / (high - low).clamp(min=1e-8)
    return (x - x.new_tensor(spec.mean)[:, None, None]) / x.new_tensor(spec.std)[:, None, None]
