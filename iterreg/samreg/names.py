"""Rename the weights of checkpoints to the names used here.

Names here are segment-anything's, with two exceptions: TinyViT has timm's names, and SAM-Med2D's
adapters are part of a block's perceptron.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

_MLP = r"((?:output_hypernetworks_mlps\.\d|iou_prediction_head|hf_mlp)\.)"

_HUB: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.neck\.conv(\d)\.", lambda m: f"image_encoder.neck.{2 * int(m[1]) - 2}."),
    (
        r"^vision_encoder\.neck\.layer_norm(\d)\.",
        lambda m: f"image_encoder.neck.{2 * int(m[1]) - 1}.",
    ),
    (r"^vision_encoder\.", "image_encoder."),
    (
        r"^(?:shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"\.mask_embed\.conv(\d)\.", lambda m: f".mask_downscaling.{3 * int(m[1]) - 3}."),
    (r"\.mask_embed\.layer_norm(\d)\.", lambda m: f".mask_downscaling.{3 * int(m[1]) - 2}."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"(transformer\.layers\.\d+)\.layer_norm", r"\1.norm"),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.hq_token\.", ".hf_token."),
    (r"\.hq_mask_mlp\.", ".hf_mlp."),
    (r"\.compress_vit_", ".compress_vit_feat_"),
    (r"\.encoder_(conv|norm)", r".embedding_encoder_\1"),
    (r"\.mask_(conv|norm)", r".embedding_maskfeature_\1"),
    (r"\.upscale_conv", ".output_upscaling_conv"),
    (r"_conv(\d)\.", lambda m: f".{3 * int(m[1]) - 3}."),
    (r"(feat|encoder|maskfeature)_norm\.", r"\1.1."),
    (rf"{_MLP}layers\.0\.", r"\1layers.1."),
    (rf"{_MLP}proj_in\.", r"\1layers.0."),
    (rf"{_MLP}proj_out\.", r"\1layers.2."),
)
"""Rules for the names of the transformers library, applied in this order."""


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of any checkpoint.

    Args:
        state: weights with the authors' names, or those of the transformers library.

    Returns:
        Weights with the names of :class:`~iterreg.samreg.models.SamModel`. Unknown names stay.
    """
    if any(key.startswith("vision_encoder.") for key in state):
        return {_from_hub(key): value for key, value in state.items()}
    if any(key.startswith("image_encoder.layers.") for key in state):
        # TinyViT's classifier is not used.
        unused = ("image_encoder.norm_head.", "image_encoder.head.")
        return {_from_mobile_sam(k): v for k, v in state.items() if not k.startswith(unused)}
    return {key.replace(".Adapter.", ".mlp.adapter."): value for key, value in state.items()}


def _from_hub(key: str) -> str:
    for pattern, new in _HUB:
        key = re.sub(pattern, new, key)
    return key


def _from_mobile_sam(key: str) -> str:
    """MobileSAM's stages end with the downsampling; timm's begin with it."""
    if not key.startswith("image_encoder."):
        return key
    key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) + 1}.downsample", key)
    key = key.replace(".layers.", ".stages.").replace(".c.weight", ".conv.weight")
    return key.replace(".seq.0.", ".conv1.").replace(".seq.2.", ".conv2.")
