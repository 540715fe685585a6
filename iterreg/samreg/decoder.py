"""SAM's mask decoder for many points of one picture, without repeating work for each point.

The weights are segment-anything's modules, the attention is in :mod:`iterreg.samreg.attention`. The
upscaling treats each position by itself, so positions are put in picture order only at the end
(:func:`to_pictures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from iterreg.samreg.attention import ImageTerms, layer_norm, two_way_transformer
from iterreg.samreg.encoders import EMBEDDING
from iterreg.samreg.variants import VariantSpec, VitSize

UPSCALED_CHANNELS = EMBEDDING // 8
"""Channels of the embedding after upscaling."""

ONE_MASK, THREE_MASKS = slice(0, 1), slice(1, None)
"""The first mask token is for prompts without ambiguity, the others for a part, a structure and the
whole."""


def build_decoder(spec: VariantSpec) -> Any:
    """Build a variant's mask decoder, segment-anything's, with random weights.

    Source:
        Ke et al., Segment Anything in High Quality, NeurIPS 2023, section 3.2, for the additions of
        HQ-SAM: an output token, its perceptron, and features of an early layer.
    """
    from segment_anything.modeling import MaskDecoder, TwoWayTransformer
    from segment_anything.modeling.common import LayerNorm2d
    from segment_anything.modeling.mask_decoder import MLP

    decoder = MaskDecoder(
        transformer_dim=EMBEDDING,
        transformer=TwoWayTransformer(2, embedding_dim=EMBEDDING, num_heads=8, mlp_dim=2048),
    )
    if spec.high_quality:
        assert isinstance(spec.encoder, VitSize)
        fine = UPSCALED_CHANNELS
        decoder.hf_token = nn.Embedding(1, EMBEDDING)
        decoder.hf_mlp = MLP(EMBEDDING, EMBEDDING, fine, 3)
        decoder.compress_vit_feat = _upscale_by_four(spec.encoder.width, EMBEDDING, LayerNorm2d)
        decoder.embedding_encoder = _upscale_by_four(EMBEDDING, 2 * fine, LayerNorm2d)
        decoder.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(fine, 2 * fine, 3, padding=1),
            LayerNorm2d(2 * fine),
            nn.GELU(),
            nn.Conv2d(2 * fine, fine, 3, padding=1),
        )
    return decoder


def high_quality_features(decoder: Any, features: Tensor, early: Tensor) -> Tensor:
    """Compute the features that HQ-SAM's decoder adds to every mask of a picture.

    Args:
        decoder: HQ-SAM's.
        features: (B, C, h, w), the embedding.
        early: (B, width, h, w), an early layer's output.

    Returns:
        (B, C / 8, 4 h, 4 w).
    """
    result: Tensor = decoder.embedding_encoder(features) + decoder.compress_vit_feat(early)
    return result


def decode(
    decoder: Any,
    image: ImageTerms,
    prompts: Tensor,
    hq_features: Sequence[Tensor],
    single: bool = False,
) -> tuple[Tensor, Tensor]:
    """Decode masks for the prompts of one picture.

    Args:
        decoder: from :func:`build_decoder`.
        image: the picture's terms.
        prompts: (N, P, C).
        hq_features: empty, or one picture's :func:`high_quality_features`.
        single: decode the one mask for prompts without ambiguity, such as boxes.

    Returns:
        Logits (N, M, 4 side, 4 side) and predicted IoU (N, M), float32. M is 3: a part, a
        structure, the whole; or 1 if ``single``. With HQ-SAM M is 1: the mask with the highest
        predicted IoU, refined.
    """
    side = int(len(image.features) ** 0.5)
    tokens, keys = _attend(decoder, image, prompts)
    chosen = ONE_MASK if single else THREE_MASKS
    iou = decoder.iou_prediction_head(tokens[:, 0])[:, chosen]
    upscaled = upscale(decoder.output_upscaling, keys)
    masks = torch.bmm(upscaled.flatten(1, 3), _weights(decoder, tokens, chosen, upscaled.dtype))
    masks = to_pictures(masks.unflatten(1, upscaled.shape[1:4]), (side, side)).float()
    if not hq_features:
        return masks, iou
    iou, best = iou.max(1, keepdim=True)
    masks = masks.gather(1, best[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
    detail = to_pictures(upscaled.float(), (side, side))
    detail = decoder.embedding_maskfeature(detail) + hq_features[0]
    weight = decoder.hf_mlp(tokens[:, len(_own_tokens(decoder)) - 1])
    return masks + torch.einsum("nc,nchw->nhw", weight, detail)[:, None], iou


def glance(decoder: Any, image: ImageTerms, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Decode as :func:`decode`, but of each position's 4 x 4 children the first alone.

    Args:
        decoder: from :func:`build_decoder`.
        image: the picture's terms.
        prompts: (N, P, C).

    Returns:
        Logits (N, 3, side, side) and predicted IoU (N, 3), without HQ-SAM's refinement.
    """
    side = int(len(image.features) ** 0.5)
    tokens, keys = _attend(decoder, image, prompts)
    first = upscale(decoder.output_upscaling, keys, children=1)[:, :, 0, 0]
    masks = torch.bmm(first, _weights(decoder, tokens, THREE_MASKS, first.dtype))
    iou = decoder.iou_prediction_head(tokens[:, 0])[:, THREE_MASKS]
    return masks.transpose(1, 2).unflatten(2, (side, side)).float(), iou


def upscale(layers: nn.Sequential, keys: Tensor, children: int = 4) -> Tensor:
    """Upscale the image features by 4 along both axes.

    Args:
        layers: segment-anything's ``output_upscaling``.
        keys: (N, L, C).
        children: 4, or 1 for the first child of each position and the first child of that.

    Returns:
        (N, L, 4, 4, C / 8): each position's 2 x 2 children, and the 2 x 2 children of each of
        these; or (N, L, 1, 1, C / 8).
    """
    up1, norm, _, up2, _ = layers
    x = nnf.gelu(layer_norm(_transposed_convolution(keys, up1, children), norm))
    x = nnf.gelu(_transposed_convolution(x, up2, children))
    return x.view(len(x), -1, children, children, x.shape[-1])


def to_pictures(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Put positions and their children, as :func:`upscale` orders them, in picture order.

    Args:
        x: (N, L, 4, 4, C).
        size_hw: rows and columns of the L positions.

    Returns:
        (N, C, 4 h, 4 w).

    Example:
        >>> children = torch.arange(16.0).view(1, 1, 4, 4, 1)
        >>> to_pictures(children, (1, 1))[0, 0, 0].tolist()
        [0.0, 1.0, 4.0, 5.0]
    """
    n, (h, w), c = x.shape[0], size_hw, x.shape[-1]
    x = x.view(n, h, w, 2, 2, 2, 2, c).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return x.reshape(n, c, 4 * h, 4 * w)


def _upscale_by_four(channels: int, inner: int, norm: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, inner, 2, stride=2),
        norm(inner),
        nn.GELU(),
        nn.ConvTranspose2d(inner, UPSCALED_CHANNELS, 2, stride=2),
    )


def _own_tokens(decoder: Any) -> Tensor:
    """The decoder's own tokens: predicted IoU, four masks, and HQ-SAM's one."""
    tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    tokens += [decoder.hf_token.weight] if hasattr(decoder, "hf_token") else []
    return torch.cat(tokens)


def _attend(decoder: Any, image: ImageTerms, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (N, T, C), the decoder's own first, and positions (N, L, C) after the transformer."""
    own = _own_tokens(decoder).expand(len(prompts), -1, -1)
    return two_way_transformer(decoder.transformer, image, torch.cat([own, prompts], 1))


def _weights(decoder: Any, tokens: Tensor, chosen: slice, precision: torch.dtype) -> Tensor:
    """What upscaled features are multiplied by to become the logits of masks: (N, C / 8, M)."""
    heads = list(enumerate(decoder.output_hypernetworks_mlps))[chosen]
    return torch.stack([mlp(tokens[:, 1 + k]) for k, mlp in heads], -1).to(precision)


def _transposed_convolution(x: Tensor, layer: Any, children: int = 4) -> Tensor:
    """Apply a transposed convolution of kernel and stride 2: (N, L, C) to (N, 4 L, C').

    With ``children`` 1 only the first of each position's four is computed: (N, L, C').
    """
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 1)[:children].flatten(0, 1).to(x.dtype)
    y = nnf.linear(x.flatten(0, 1), weight, layer.bias.repeat(children).to(x.dtype))
    return y.view(x.shape[0], -1, int(layer.bias.shape[0]))
