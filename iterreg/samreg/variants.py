"""A table of the Segment Anything variants: their architecture, input, and source of weights.

To add a variant, add a row: the code reads the row and never asks for a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from iterreg.errors import ConfigError

PATCH_PX = 16
"""Side of the square of the input that becomes one position of the embedding."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_META = "https://dl.fbaipublicfiles.com/segment_anything"


@dataclass(frozen=True)
class VitSize:
    """Sizes of a vision transformer.

    Args:
        width: channels.
        depth: number of blocks.
        heads: attention heads.
        mlp_width: hidden channels of a block's two-layer perceptron.
        global_blocks: indices of the blocks that attend to the whole picture; the others attend to
            windows of 14 x 14.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    global_blocks: tuple[int, ...]


@dataclass(frozen=True)
class VariantSpec:
    """One variant.

    Args:
        name: as users type it.
        encoder: ``tiny_vit``, or the sizes of a vision transformer.
        file: file name of its checkpoint in the cache, the same as the authors'.
        project: where the authors publish it, in words.
        url: the authors' download; None if they offer no direct link.
        sha256: of that file; None if unknown.
        adapters: whether each block has SAM-Med2D's adapter.
        high_quality: whether the decoder is HQ-SAM's, with one mask per point instead of three.
        input_px: side of the encoder's square input.
        resize: ``longest-side`` keeps the aspect ratio and pads at the right and the bottom after
            normalisation; ``stretch`` fills the square.
        interpolation: of the resizing; bilinear and bicubic are antialiased when they shrink.
        mean, std: per channel, of values 0 to 255. None scales each picture to 0 ... 1 instead.
        prompts: the prompts that it was trained with.
        licence: of code and weights.
        verified: whether its masks were compared with labels, with its real weights. The others
            were tested with their real architecture and random weights.
    """

    name: str
    encoder: Literal["tiny_vit"] | VitSize
    file: str
    project: str
    url: str | None = None
    sha256: str | None = None
    adapters: bool = False
    high_quality: bool = False
    input_px: int = 1024
    resize: Literal["longest-side", "stretch"] = "longest-side"
    interpolation: Literal["bilinear", "bicubic", "nearest-exact"] = "bilinear"
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    std: tuple[float, float, float] | None = IMAGENET_STD
    prompts: str = "points, boxes and masks"
    licence: str = "Apache-2.0"
    verified: bool = False

    @property
    def grid_px(self) -> int:
        """Number of rows, and of columns, of the embedding."""
        return self.input_px // PATCH_PX


_B = VitSize(768, 12, 12, 3072, (2, 5, 8, 11))
_L = VitSize(1024, 24, 16, 4096, (5, 11, 17, 23))
_H = VitSize(1280, 32, 16, 5120, (7, 15, 23, 31))
_SAM, _HQ, _SLIM = "segment-anything of Meta AI", "sam-hq of SysCV", "SlimSAM of czg1225"

VARIANTS = {
    spec.name: spec
    for spec in (
        VariantSpec(
            "mobile_sam",
            "tiny_vit",
            "mobile_sam.pt",
            "MobileSAM of ChaoningZhang",
            url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            verified=True,
        ),
        VariantSpec(
            "sam_vit_b",
            _B,
            "sam_vit_b_01ec64.pth",
            _SAM,
            url=f"{_META}/sam_vit_b_01ec64.pth",
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        VariantSpec(
            "sam_vit_l",
            _L,
            "sam_vit_l_0b3195.pth",
            _SAM,
            url=f"{_META}/sam_vit_l_0b3195.pth",
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        VariantSpec(
            "sam_vit_h",
            _H,
            "sam_vit_h_4b8939.pth",
            _SAM,
            url=f"{_META}/sam_vit_h_4b8939.pth",
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
        VariantSpec("hq_sam_vit_b", _B, "sam_hq_vit_b.pth", _HQ, high_quality=True),
        VariantSpec("hq_sam_vit_l", _L, "sam_hq_vit_l.pth", _HQ, high_quality=True),
        VariantSpec("hq_sam_vit_h", _H, "sam_hq_vit_h.pth", _HQ, high_quality=True),
        VariantSpec(
            "slim_sam_50",
            VitSize(384, 12, 12, 1536, _B.global_blocks),
            "SlimSAM-50-uniform.pth",
            _SLIM,
        ),
        VariantSpec(
            "slim_sam_77",
            VitSize(168, 12, 12, 696, _B.global_blocks),
            "SlimSAM-77-uniform.pth",
            _SLIM,
        ),
        VariantSpec(
            "medsam",
            _B,
            "medsam_vit_b.pth",
            "MedSAM of bowang-lab",
            resize="stretch",
            interpolation="bicubic",
            mean=None,
            std=None,
            prompts="boxes; the authors do not support points or everything mode",
        ),
        VariantSpec(
            "sam_med2d",
            _B,
            "sam-med2d_b.pth",
            "SAM-Med2D of OpenGVLab",
            adapters=True,
            input_px=256,
            resize="stretch",
            interpolation="nearest-exact",
        ),
    )
}
"""All variants, by name."""


def find_variant(name: str) -> VariantSpec:
    """Find a variant by name.

    Raises:
        ConfigError: unknown name.

    Example:
        >>> find_variant("mobile_sam").input_px
        1024
    """
    if name not in VARIANTS:
        raise ConfigError(f"variant {name}: unknown; expected one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
