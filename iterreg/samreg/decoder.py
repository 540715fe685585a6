"""SAM's mask decoder for many points of one picture, without doing the same work for each of them.

The weights are segment-anything's modules; the order of the multiplications is ours. What depends
on the picture alone is computed once; where a few tokens meet thousands of positions, projections
move from the positions to the tokens, as ``(x W) q = x (W q)``; the upscaling, which treats each
position by itself, keeps the order in which it finds them. The results are the library's up to
rounding. What there is of each position for each point, most of the work, may be of less precision
than what there is of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from iterreg.samreg.encoders import EMBEDDING
from iterreg.samreg.variants import VariantSpec, VitSize

FINE = EMBEDDING // 8
"""Channels of the upscaled embedding."""


def build_decoder(spec: VariantSpec) -> Any:
    """The mask decoder of a variant, segment-anything's, with random weights.

    Source:
        Ke et al., Segment Anything in High Quality, NeurIPS 2023, section 3.2, for what HQ-SAM
        adds: an output token, its perceptron, and features of an early layer.
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
        decoder.hf_token = nn.Embedding(1, EMBEDDING)
        decoder.hf_mlp = MLP(EMBEDDING, EMBEDDING, FINE, 3)
        decoder.compress_vit_feat = _doubled_twice(spec.encoder.width, EMBEDDING, LayerNorm2d)
        decoder.embedding_encoder = _doubled_twice(EMBEDDING, 2 * FINE, LayerNorm2d)
        decoder.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(FINE, 2 * FINE, 3, padding=1),
            LayerNorm2d(2 * FINE),
            nn.GELU(),
            nn.Conv2d(2 * FINE, FINE, 3, padding=1),
        )
    return decoder


def high_quality_features(decoder: Any, features: Tensor, early: Tensor) -> Tensor:
    """What HQ-SAM's decoder adds to every mask of a picture.

    Args:
        decoder: HQ-SAM's.
        features: (B, C, h, w), the embedding.
        early: (B, width, h, w), an early layer's output.

    Returns:
        (B, C / 8, 4 h, 4 w).
    """
    result: Tensor = decoder.embedding_encoder(features) + decoder.compress_vit_feat(early)
    return result


@dataclass(frozen=True)
class Ground:
    """What the decoder makes of a picture before it is asked about any point.

    Args:
        features: (L, C), L = side * side positions, row by row, in the precision that everything
            of as many positions shall have.
        asked: (L, D), (L, D), the first block's keys and values of the tokens' attention, and
            ``asking`` (L, D): its queries of the positions' attention.
        places: for each later attention, (L, D): what it projects of where a position is.
    """

    features: Tensor
    asked: tuple[Tensor, Tensor]
    asking: Tensor
    places: tuple[Tensor, ...]


def ground(decoder: Any, features: Tensor, encoding: Tensor, precision: torch.dtype) -> Ground:
    """See :class:`Ground`.

    Args:
        decoder: from :func:`build_decoder`.
        features: (L, C) float32 of the picture, L = side * side positions, row by row.
        encoding: (L, C), where each position is.
        precision: float32, or bfloat16 where the device multiplies it natively.
    """
    first, *later = decoder.transformer.layers
    lookup, located = first.cross_attn_token_to_image, features + encoding
    places = []
    for block in later:
        places.append(nnf.linear(encoding, block.cross_attn_token_to_image.k_proj.weight))
        places.append(block.cross_attn_image_to_token.q_proj(encoding))
    last = decoder.transformer.final_attn_token_to_image
    places.append(nnf.linear(encoding, last.k_proj.weight))
    return Ground(
        features.to(precision),
        (lookup.k_proj(located), lookup.v_proj(features)),
        first.cross_attn_image_to_token.q_proj(located),
        tuple(places),
    )


def decode(
    decoder: Any, ground: Ground, prompts: Tensor, sharp: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Masks for the prompts of one picture.

    Args:
        decoder: from :func:`build_decoder`.
        ground: of the picture.
        prompts: (N, P, C).
        sharp: empty, or one picture's :func:`high_quality_features`.

    Returns:
        Logits (N, M, 4 side, 4 side) and predicted IoU (N, M), float32. M is 3: a part, a
        structure, the whole. HQ-SAM: 1, the one of the three that it thinks best, refined.
    """
    side = int(len(ground.features) ** 0.5)
    own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    own += [decoder.hf_token.weight] if sharp else []
    first = torch.cat(own)
    tokens = torch.cat([first.expand(len(prompts), -1, -1), prompts], 1)
    tokens, keys = attend(decoder.transformer, ground, tokens)
    iou = decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
    fine = upscaled(decoder.output_upscaling, keys)
    # The first mask token is for prompts without ambiguity.
    weights = [
        mlp(tokens[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps) if k > 0
    ]
    masks = torch.bmm(fine.flatten(1, 3), torch.stack(weights, -1).to(fine.dtype))
    masks = in_rows(masks.float().unflatten(1, fine.shape[1:4]), (side, side))
    if not sharp:
        return masks, iou
    iou, best = iou.max(1, keepdim=True)
    masks = masks.gather(1, best[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
    detail = decoder.embedding_maskfeature(in_rows(fine.float(), (side, side))) + sharp[0]
    weight = decoder.hf_mlp(tokens[:, len(first) - 1])
    return masks + torch.einsum("nc,nchw->nhw", weight, detail)[:, None], iou


def attend(transformer: Any, ground: Ground, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The two-way transformer.

    Args:
        transformer: segment-anything's ``TwoWayTransformer``.
        ground: of the picture.
        tokens: (N, T, C), the prompt among them.

    Returns:
        The tokens (N, T, C), and the features as each point has changed them (N, L, C), in the
        ground's precision.

    Source:
        Kirillov et al., Segment Anything, ICCV 2023, appendix A, "lightweight mask decoder".
    """
    first, *later = transformer.layers
    places = iter(ground.places)
    queries = first.norm1(first.self_attn(tokens, tokens, tokens))
    found = _looked_up_first(first.cross_attn_token_to_image, queries + tokens, ground)
    queries = _settled(first, queries + found)
    scores = _scores_first(first.cross_attn_image_to_token, queries + tokens, ground)
    keys = _changed(first, ground.features.expand(len(tokens), -1, -1), scores, queries)
    for block in later:
        asked = queries + tokens
        queries = block.norm1(queries + block.self_attn(asked, asked, queries))
        lookup = block.cross_attn_token_to_image
        found = _looked_up(lookup, queries + tokens, next(places), keys)
        queries = _settled(block, queries + found)
        told = block.cross_attn_image_to_token
        scores = _scores(told, told.k_proj, told.q_proj, queries + tokens, next(places), keys)
        keys = _changed(block, keys, scores, queries)
    last = transformer.final_attn_token_to_image
    found = _looked_up(last, queries + tokens, next(places), keys)
    queries = transformer.norm_final_attn(queries + found)
    return queries, keys


def upscaled(layers: Any, keys: Tensor) -> Tensor:
    """The decoder's upscaling by 4.

    Args:
        layers: segment-anything's ``output_upscaling``.
        keys: (N, L, C).

    Returns:
        (N, L, 4, 4, C / 8): each position's 2 x 2 children, and the 2 x 2 of each of these.
    """
    up1, norm, _, up2, _ = layers
    x = nnf.gelu(_normalised(_split(keys, up1), norm))
    x = nnf.gelu(_split(x, up2))
    return x.view(len(x), -1, 4, 4, x.shape[-1])


def in_rows(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """What :func:`upscaled` gives, or masks made from it, as pictures.

    Args:
        x: (N, L, 4, 4, C).
        size_hw: rows and columns of the L positions.

    Returns:
        (N, C, 4 h, 4 w).
    """
    n, (h, w), c = x.shape[0], size_hw, x.shape[-1]
    x = x.view(n, h, w, 2, 2, 2, 2, c).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return x.reshape(n, c, 4 * h, 4 * w)


def _doubled_twice(channels: int, inner: int, norm: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, inner, 2, stride=2),
        norm(inner),
        nn.GELU(),
        nn.ConvTranspose2d(inner, FINE, 2, stride=2),
    )


def _settled(block: Any, queries: Tensor) -> Tensor:
    queries = block.norm2(queries)
    result: Tensor = block.norm3(queries + block.mlp(queries))
    return result


def _looked_up_first(attention: Any, asked: Tensor, ground: Ground) -> Tensor:
    """Tokens (N, T, C) attend to positions that all points share."""
    q = _heads(attention.q_proj(asked), attention.num_heads) * _scale(attention)
    k, v = (_heads(x, attention.num_heads) for x in ground.asked)
    shares = torch.einsum("nthd,lhd->nhtl", q, k).softmax(-1)
    seen = torch.einsum("nhtl,lhd->nthd", shares, v)
    result: Tensor = attention.out_proj(seen.flatten(2))
    return result


def _looked_up(attention: Any, asked: Tensor, places: Tensor, keys: Tensor) -> Tensor:
    """Tokens (N, T, C) attend to positions (N, L, C)."""
    heads = attention.num_heads
    # The bias of k_proj adds the same to all positions, so softmax does not see it.
    scores = _scores(attention, attention.q_proj, attention.k_proj, asked, places, keys)
    seen = torch.bmm(scores.softmax(-1).to(keys.dtype), keys).float().unflatten(1, (-1, heads))
    v = torch.einsum("nthc,hdc->nthd", seen, attention.v_proj.weight.unflatten(0, (heads, -1)))
    result: Tensor = attention.out_proj(v.flatten(2) + attention.v_proj.bias)
    return result


def _scores_first(attention: Any, asked: Tensor, ground: Ground) -> Tensor:
    """As :func:`_scores`, of positions that all points share, which attend to the tokens."""
    heads = attention.num_heads
    k = _heads(attention.k_proj(asked), heads) * _scale(attention)
    return torch.einsum("nthd,lhd->nthl", k, _heads(ground.asking, heads)).flatten(1, 2)


def _scores(
    attention: Any, of_tokens: Any, of_positions: Any, asked: Tensor, places: Tensor, keys: Tensor
) -> Tensor:
    """Products of projected tokens and projected positions: (N, T * heads, L) float32.

    Args:
        attention: whose heads and scale count.
        of_tokens, of_positions: its projections of the two.
        asked: (N, T, C) tokens.
        places: (L, D), the second projection of where the positions are.
        keys: (N, L, C), the positions.
    """
    heads = attention.num_heads
    small = _heads(of_tokens(asked), heads) * _scale(attention)
    by_place = torch.einsum("nthd,lhd->nthl", small, _heads(places, heads)).flatten(1, 2)
    weight = of_positions.weight.unflatten(0, (heads, -1))
    wide = torch.einsum("nthd,hdc->nthc", small, weight).flatten(1, 2).to(keys.dtype)
    return by_place + torch.bmm(wide, keys.transpose(1, 2))


def _changed(block: Any, keys: Tensor, scores: Tensor, told: Tensor) -> Tensor:
    """Add to the positions (N, L, C) what the tokens (N, T, C) tell by their scores."""
    attention = block.cross_attn_image_to_token
    heads, out = attention.num_heads, attention.out_proj
    v = _heads(attention.v_proj(told), heads)
    v = torch.einsum("nthd,chd->nthc", v, out.weight.unflatten(1, (heads, -1)))
    # A head's shares sum to 1, so a part of the bias in each head's values is the whole in the end.
    v = (v + out.bias / heads).flatten(1, 2).to(keys.dtype)
    shares = scores.unflatten(1, (-1, heads)).softmax(1).flatten(1, 2).to(keys.dtype)
    return _normalised(keys + torch.bmm(shares.transpose(1, 2), v), block.norm4)


def _normalised(x: Tensor, norm: Any) -> Tensor:
    """Layer normalisation over the last axis, in the precision of ``x``."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return nnf.layer_norm(x, weight.shape, weight, bias, norm.eps)


def _split(x: Tensor, layer: Any) -> Tensor:
    """A transposed convolution of kernel and stride 2: (N, L, C) to (N, 4 L, C')."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).to(x.dtype)
    y = nnf.linear(x.flatten(0, 1), weight, layer.bias.repeat(4).to(x.dtype))
    return y.view(x.shape[0], -1, int(layer.bias.shape[0]))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1)


def _scale(attention: Any) -> float:
    return float((attention.internal_dim // attention.num_heads) ** -0.5)
