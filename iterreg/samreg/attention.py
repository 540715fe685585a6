"""SAM's two-way attention between the prompts of many points and the positions of one picture.

The weights are segment-anything's modules; the order of the multiplications is our own:

- What depends on the picture alone is computed once (:func:`image_terms`).
- Where a few tokens meet thousands of positions, a projection W moves from the positions x to the
  tokens q: ``(x W) q = x (W q)``.

The results equal the library's up to rounding. Tensors with an entry per point and position, which
are most of the work, may have a lower precision than the tokens.

Shapes: N points, T tokens per point, L positions of the embedding, C channels of the embedding, D
channels inside an attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

if TYPE_CHECKING:
    from segment_anything.modeling.transformer import (
        Attention,
        TwoWayAttentionBlock,
        TwoWayTransformer,
    )


@dataclass(frozen=True)
class ImageTerms:
    """The part of the decoder's work that depends on the picture alone.

    Args:
        features: (L, C), row by row. Every tensor of N x L entries has this one's precision.
        first_keys_values: two of (L, D): keys and values of the first block's token-to-image
            attention.
        first_queries: (L, D): queries of the first block's image-to-token attention.
        position_terms: for each later attention in turn, (L, D): the projection of the positional
            encoding.
    """

    features: Tensor
    first_keys_values: tuple[Tensor, Tensor]
    first_queries: Tensor
    position_terms: tuple[Tensor, ...]


def image_terms(
    transformer: TwoWayTransformer,
    features: Tensor,
    positional_encoding: Tensor,
    precision: torch.dtype,
) -> ImageTerms:
    """Compute the :class:`ImageTerms` of a picture.

    Args:
        transformer: segment-anything's.
        features: (L, C) float32 of the picture, L = side * side positions, row by row.
        positional_encoding: (L, C).
        precision: float32, or bfloat16 if the device multiplies it natively.
    """
    first, *later = transformer.layers
    first_attention, features_with_pe = (
        first.cross_attn_token_to_image,
        features + positional_encoding,
    )
    terms = []
    for block in later:
        terms.append(nnf.linear(positional_encoding, block.cross_attn_token_to_image.k_proj.weight))
        terms.append(block.cross_attn_image_to_token.q_proj(positional_encoding))
    final = transformer.final_attn_token_to_image
    terms.append(nnf.linear(positional_encoding, final.k_proj.weight))
    return ImageTerms(
        features.to(precision),
        (first_attention.k_proj(features_with_pe), first_attention.v_proj(features)),
        first.cross_attn_image_to_token.q_proj(features_with_pe),
        tuple(terms),
    )


def two_way_transformer(
    transformer: TwoWayTransformer, image: ImageTerms, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the two-way transformer.

    Args:
        transformer: segment-anything's.
        image: the picture's terms.
        tokens: (N, T, C), the prompt's among them.

    Returns:
        The tokens (N, T, C), and each point's version of the image features (N, L, C), in the
        precision of ``image``.

    Source:
        Kirillov et al., Segment Anything, ICCV 2023, appendix A, "lightweight mask decoder".
    """
    first, *later = transformer.layers
    position_terms = iter(image.position_terms)
    queries = first.norm1(first.self_attn(tokens, tokens, tokens))
    queries_with_pe = queries + tokens
    attn_out = _token_to_image_first(first.cross_attn_token_to_image, queries_with_pe, image)
    queries = _mlp_block(first, queries + attn_out)
    cross_attention = first.cross_attn_image_to_token
    scores = _image_to_token_scores_first(cross_attention, queries + tokens, image)
    keys = _image_to_token(first, image.features.expand(len(tokens), -1, -1), scores, queries)
    for block in later:
        queries_with_pe = queries + tokens
        attn_out = block.self_attn(queries_with_pe, queries_with_pe, queries)
        queries = block.norm1(queries + attn_out)
        cross_attention = block.cross_attn_token_to_image
        attn_out = _token_to_image(cross_attention, queries + tokens, next(position_terms), keys)
        queries = _mlp_block(block, queries + attn_out)
        cross_attention = block.cross_attn_image_to_token
        scores = _scores(
            cross_attention,
            (cross_attention.k_proj, cross_attention.q_proj),
            queries + tokens,
            next(position_terms),
            keys,
        )
        keys = _image_to_token(block, keys, scores, queries)
    final = transformer.final_attn_token_to_image
    attn_out = _token_to_image(final, queries + tokens, next(position_terms), keys)
    queries = transformer.norm_final_attn(queries + attn_out)
    return queries, keys


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """Normalise over the last axis, in the precision of ``x``."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return nnf.layer_norm(x, weight.shape, weight, bias, norm.eps)


def _mlp_block(block: TwoWayAttentionBlock, queries: Tensor) -> Tensor:
    """Normalise, then MLP with residual and layer norm."""
    queries = block.norm2(queries)
    result: Tensor = block.norm3(queries + block.mlp(queries))
    return result


def _token_to_image_first(
    attention: Attention, queries_with_pe: Tensor, image: ImageTerms
) -> Tensor:
    """Let tokens (N, T, C) attend to the positions, which all points still share."""
    q = _split_heads(attention.q_proj(queries_with_pe), attention.num_heads) * _scale(attention)
    k, v = (_split_heads(x, attention.num_heads) for x in image.first_keys_values)
    weights = torch.einsum("nthd,lhd->nhtl", q, k).softmax(-1)
    attn_out = torch.einsum("nhtl,lhd->nthd", weights, v)
    result: Tensor = attention.out_proj(attn_out.flatten(2))
    return result


def _token_to_image(
    attention: Attention, queries_with_pe: Tensor, position_term: Tensor, keys: Tensor
) -> Tensor:
    """Let tokens (N, T, C) attend to each point's own positions (N, L, C)."""
    heads = attention.num_heads
    # The bias of k_proj adds the same to all positions, so softmax removes it.
    projections = attention.q_proj, attention.k_proj
    scores = _scores(attention, projections, queries_with_pe, position_term, keys)
    attn_out = torch.bmm(scores.softmax(-1).to(keys.dtype), keys).float().unflatten(1, (-1, heads))
    v = torch.einsum("nthc,hdc->nthd", attn_out, attention.v_proj.weight.unflatten(0, (heads, -1)))
    result: Tensor = attention.out_proj(v.flatten(2) + attention.v_proj.bias)
    return result


def _image_to_token_scores_first(
    attention: Attention, queries_with_pe: Tensor, image: ImageTerms
) -> Tensor:
    """As :func:`_scores`, for the positions that all points still share."""
    heads = attention.num_heads
    k = _split_heads(attention.k_proj(queries_with_pe), heads) * _scale(attention)
    q = _split_heads(image.first_queries, heads)
    return torch.einsum("nthd,lhd->nthl", k, q).flatten(1, 2)


def _scores(
    attention: Attention,
    projections: tuple[nn.Linear, nn.Linear],
    queries_with_pe: Tensor,
    position_term: Tensor,
    keys: Tensor,
) -> Tensor:
    """Multiply projected tokens by projected positions: (N, T * heads, L) float32.

    Args:
        attention: sets the number of heads and the scale.
        projections: the attention's projection of tokens, and that of positions.
        queries_with_pe: (N, T, C) tokens.
        position_term: (L, D), the second projection of the positional encoding.
        keys: (N, L, C), the positions.
    """
    heads = attention.num_heads
    of_tokens, of_positions = projections
    tokens = _split_heads(of_tokens(queries_with_pe), heads) * _scale(attention)
    by_position = torch.einsum("nthd,lhd->nthl", tokens, _split_heads(position_term, heads))
    weight = of_positions.weight.unflatten(0, (heads, -1))
    wide = torch.einsum("nthd,hdc->nthc", tokens, weight).flatten(1, 2).to(keys.dtype)
    return by_position.flatten(1, 2) + torch.bmm(wide, keys.transpose(1, 2))


def _image_to_token(
    block: TwoWayAttentionBlock, keys: Tensor, scores: Tensor, queries: Tensor
) -> Tensor:
    """Image-to-token cross-attention with residual and layer norm.

    Args:
        block: whose attention.
        keys: (N, L, C), the positions, which attend.
        scores: (N, T * heads, L), from :func:`_scores`.
        queries: (N, T, C), the tokens.
    """
    attention = block.cross_attn_image_to_token
    heads, out = attention.num_heads, attention.out_proj
    v = _split_heads(attention.v_proj(queries), heads)
    v = torch.einsum("nthd,chd->nthc", v, out.weight.unflatten(1, (heads, -1)))
    # The weights of a head sum to 1, so an equal part of the bias in each head's values adds up to
    # the whole bias.
    v = (v + out.bias / heads).flatten(1, 2).to(keys.dtype)
    weights = scores.unflatten(1, (-1, heads)).softmax(1).flatten(1, 2).to(keys.dtype)
    return layer_norm(keys + torch.bmm(weights.transpose(1, 2), v), block.norm4)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1)


def _scale(attention: Attention) -> float:
    return float((attention.internal_dim // attention.num_heads) ** -0.5)
