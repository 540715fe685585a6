"""SAM's mask decoder for many points of one picture, without doing the same work for each of them.

The weights are segment-anything's modules; the order of the multiplications is ours. What depends
on the picture alone is computed once; where a few tokens meet thousands of positions, projections
move from the positions to the tokens, as ``(x W) q = x (W q)``; the upscaling, which treats each
position by itself, keeps the order in which it finds them. The results are the library's up to
rounding, in about a third of its time on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
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
            nn.Conv2d(FINE, 2 * FINE, 3, padding=1), LayerNorm2d(2 * FINE), nn.GELU(),
            nn.Conv2d(2 * FINE, FINE, 3, padding=1),
        )  # fmt: skip
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


def decode(
    decoder: Any, features: Tensor, encoding: Tensor, prompts: Tensor, sharp: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Masks for the prompts of one picture.

    Args:
        decoder: from :func:`build_decoder`.
        features: (L, C) of the picture, L = side * side positions, row by row.
        encoding: (L, C), where each position is.
        prompts: (N, P, C).
        sharp: empty, or one picture's :func:`high_quality_features`.

    Returns:
        Logits (N, M, 4 side, 4 side) and predicted IoU (N, M). M is 3: a part, a structure, the
        whole. HQ-SAM: 1, the one of the three that it thinks best, refined.
    """
    side = int(len(features) ** 0.5)
    own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    own += [decoder.hf_token.weight] if sharp else []
    first = torch.cat(own)
    tokens = torch.cat([first.expand(len(prompts), -1, -1), prompts], 1)
    tokens, keys = attend(decoder.transformer, features, encoding, tokens)
    iou = decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
    fine = upscaled(decoder.output_upscaling, keys)
    # The first mask token is for prompts without ambiguity.
    weights = [
        mlp(tokens[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps) if k > 0
    ]
    masks = torch.bmm(fine.flatten(1, 3), torch.stack(weights, -1)).unflatten(1, fine.shape[1:4])
    masks = in_rows(masks, (side, side))
    if not sharp:
        return masks, iou
    iou, best = iou.max(1, keepdim=True)
    masks = masks.gather(1, best[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
    detail = decoder.embedding_maskfeature(in_rows(fine, (side, side))) + sharp[0]
    weight = decoder.hf_mlp(tokens[:, len(first) - 1])
    return masks + torch.einsum("nc,nchw->nhw", weight, detail)[:, None], iou


def attend(
    transformer: Any, features: Tensor, encoding: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """The two-way transformer.

    Args:
        transformer: segment-anything's ``TwoWayTransformer``.
        features: (L, C) of the picture, the same for each point.
        encoding: (L, C), where each position is.
        tokens: (N, T, C), the prompt among them.

    Returns:
        The tokens (N, T, C), and the features as each point has changed them (N, L, C).

    Source:
        Kirillov et al., Segment Anything, ICCV 2023, appendix A, "lightweight mask decoder".
    """
    first, *later = transformer.layers
    queries = first.norm1(first.self_attn(tokens, tokens, tokens))
    located = features + encoding
    asked = (queries + tokens).flatten(0, 1)[None]
    found = first.cross_attn_token_to_image(asked, located[None], features[None])
    queries = _settled(first, queries + found.view_as(queries))
    keys = _told_once(first, features, located, queries + tokens, queries)
    for block in later:
        asked = queries + tokens
        queries = block.norm1(queries + block.self_attn(asked, asked, queries))
        each = keys + encoding
        found = _looked_up(block.cross_attn_token_to_image, queries + tokens, each, keys)
        queries = _settled(block, queries + found)
        keys = _told(block, keys, each, queries + tokens, queries)
    last = transformer.final_attn_token_to_image
    found = _looked_up(last, queries + tokens, keys + encoding, keys)
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
    x = nnf.layer_norm(_split(keys, up1), norm.weight.shape, norm.weight, norm.bias, norm.eps)
    x = nnf.gelu(_split(nnf.gelu(x), up2))
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
        nn.ConvTranspose2d(channels, inner, 2, stride=2), norm(inner), nn.GELU(),
        nn.ConvTranspose2d(inner, FINE, 2, stride=2),
    )  # fmt: skip


def _settled(block: Any, queries: Tensor) -> Tensor:
    queries = block.norm2(queries)
    result: Tensor = block.norm3(queries + block.mlp(queries))
    return result


def _looked_up(attention: Any, asked: Tensor, located: Tensor, keys: Tensor) -> Tensor:
    """Tokens (N, T, C) attend to positions (N, L, C)."""
    heads = attention.num_heads
    q = _heads(attention.q_proj(asked), heads) * _scale(attention)
    # The bias of k_proj adds the same to all positions, so softmax does not see it.
    q = torch.einsum("nthd,hdc->nthc", q, attention.k_proj.weight.unflatten(0, (heads, -1)))
    shares = torch.bmm(q.flatten(1, 2), located.transpose(1, 2)).softmax(-1)
    seen = torch.bmm(shares, keys).view_as(q)
    v = torch.einsum("nthc,hdc->nthd", seen, attention.v_proj.weight.unflatten(0, (heads, -1)))
    result: Tensor = attention.out_proj(v.flatten(2) + attention.v_proj.bias)
    return result


def _told_once(
    block: Any, features: Tensor, located: Tensor, asked: Tensor, told: Tensor
) -> Tensor:
    """Positions that all points share (L, C) attend to each point's tokens (N, T, C)."""
    attention = block.cross_attn_image_to_token
    q = _heads(attention.q_proj(located), attention.num_heads) * _scale(attention)
    k = _heads(attention.k_proj(asked), attention.num_heads)
    scores = torch.einsum("lhd,nthd->nlth", q, k)
    return _changed(block, features.expand(len(asked), -1, -1), scores, told)


def _told(block: Any, keys: Tensor, located: Tensor, asked: Tensor, told: Tensor) -> Tensor:
    """Each point's positions (N, L, C) attend to its tokens (N, T, C)."""
    attention = block.cross_attn_image_to_token
    heads, q = attention.num_heads, attention.q_proj
    k = _heads(attention.k_proj(asked), heads) * _scale(attention)
    offset = torch.einsum("nthd,hd->nth", k, q.bias.unflatten(0, (heads, -1)))
    k = torch.einsum("nthd,hdc->nthc", k, q.weight.unflatten(0, (heads, -1)))
    scores = torch.baddbmm(offset.flatten(1)[:, None], located, k.flatten(1, 2).transpose(1, 2))
    return _changed(block, keys, scores.unflatten(-1, (-1, heads)), told)


def _changed(block: Any, keys: Tensor, scores: Tensor, told: Tensor) -> Tensor:
    """Add to the positions (N, L, C) what the tokens tell, by scores (N, L, T, H)."""
    attention = block.cross_attn_image_to_token
    heads, out = attention.num_heads, attention.out_proj
    v = _heads(attention.v_proj(told), heads)
    v = torch.einsum("nthd,chd->nthc", v, out.weight.unflatten(1, (heads, -1)))
    # A head's shares sum to 1, so a part of the bias in each head's values is the whole in the end.
    v = (v + out.bias / heads).flatten(1, 2)
    result: Tensor = block.norm4(torch.baddbmm(keys, scores.softmax(-2).flatten(2), v))
    return result


def _split(x: Tensor, layer: Any) -> Tensor:
    """A transposed convolution of kernel and stride 2: (N, L, C) to (N, 4 L, C')."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    y = torch.addmm(layer.bias.repeat(4), x.flatten(0, 1), weight)
    return y.view(x.shape[0], -1, int(layer.bias.shape[0]))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1)


def _scale(attention: Any) -> float:
    return float((attention.internal_dim // attention.num_heads) ** -0.5)
