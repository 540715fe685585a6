"""The image encoders of the variants, with modules named as in the authors' checkpoints.

Vision transformers consist of segment-anything's blocks; MobileSAM's encoder is timm's TinyViT.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from iterreg.samreg.variants import PATCH_PX, VariantSpec, VitSize

EMBEDDING = 256
"""Channels of the embedding."""


class VitEncoder(nn.Module):
    """Segment Anything's vision transformer.

    Args:
        size: widths and depth.
        input_px: side of its input.
        adapters: add SAM-Med2D's adapter to each block.

    Source:
        Kirillov et al., Segment Anything, ICCV 2023; Cheng et al., SAM-Med2D, 2023, figure 3.
    """

    def __init__(self, size: VitSize, input_px: int, adapters: bool = False) -> None:
        """Build the layers with random weights."""
        from segment_anything.modeling import ImageEncoderViT

        super().__init__()
        vit = ImageEncoderViT(
            img_size=input_px,
            patch_size=PATCH_PX,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            out_chans=EMBEDDING,
            use_rel_pos=True,
            window_size=14,
            # The library truncates width * ratio.
            mlp_ratio=(size.mlp_width + 0.5) / size.width,
            global_attn_indexes=size.global_blocks,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        if adapters:
            for block in vit.blocks:
                block.mlp = AdaptedMlp(block.mlp, size.width)
        self.patch_embed, self.pos_embed = vit.patch_embed, vit.pos_embed
        self.blocks, self.neck = vit.blocks, vit.neck

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            x: (B, 3, S, S).

        Returns:
            The embedding (B, 256, S / 16, S / 16), and the output of the first block with global
            attention (B, width, S / 16, S / 16), which HQ-SAM's decoder uses.
        """
        x = self.patch_embed(x) + self.pos_embed
        early = None
        for block in self.blocks:
            x = block(x)
            if early is None and block.window_size == 0:
                early = x
        assert early is not None
        return self.neck(x.permute(0, 3, 1, 2)), early.permute(0, 3, 1, 2)


class AdaptedMlp(nn.Module):
    """A block's perceptron with SAM-Med2D's adapter in parallel.

    The block computes x + mlp(norm2(x)); with the adapter inside, that is
    x + mlp(n) + adapter(n), n = norm2(x).
    """

    def __init__(self, mlp: Any, width: int) -> None:
        """Reuse the perceptron's layers."""
        super().__init__()
        self.lin1, self.act, self.lin2 = mlp.lin1, mlp.act, mlp.lin2
        self.adapter = Adapter(width)

    def forward(self, n: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        result: Tensor = self.lin2(self.act(self.lin1(n))) + self.adapter(n)
        return result


class Adapter(nn.Module):
    """Gate the channels, add a convolution at half resolution, and normalise.

    Source:
        Cheng et al., SAM-Med2D, 2023, section 3.2.
    """

    def __init__(self, width: int) -> None:
        """Build the layers with random weights."""
        super().__init__()
        inner = width // 4
        self.channel = nn.Sequential(
            nn.Linear(width, inner, bias=False),
            nn.ReLU(),
            nn.Linear(inner, width, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, n: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = n.permute(0, 3, 1, 2)
        gate = self.channel(x.mean((2, 3)))
        x = x + self.spatial(gate[:, :, None, None] * x)
        result: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return result


class TinyVitEncoder(nn.Module):
    """MobileSAM's encoder: TinyViT 5M, whose last stage keeps the resolution, and SAM's neck.

    Source:
        Zhang et al., Faster Segment Anything, 2023; Wu et al., TinyViT, ECCV 2022.
    """

    def __init__(self) -> None:
        """Build the layers with random weights."""
        from segment_anything.modeling.common import LayerNorm2d
        from timm.models.tiny_vit import TinyVit

        super().__init__()
        # Its attention holds tables that are not weights and need a real device from the start.
        with torch.device("cpu"):
            body: Any = TinyVit(
                embed_dims=(64, 128, 160, 320),
                depths=(2, 2, 6, 2),
                num_heads=(2, 4, 5, 10),
                window_sizes=(7, 7, 14, 7),
                drop_path_rate=0.0,
            )
        body.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.patch_embed, self.stages = body.patch_embed, body.stages
        self.neck = nn.Sequential(
            nn.Conv2d(320, EMBEDDING, 1, bias=False),
            LayerNorm2d(EMBEDDING),
            nn.Conv2d(EMBEDDING, EMBEDDING, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, 1024, 1024) to the embedding (B, 256, 64, 64) and the last stage's output."""
        x = self.stages(self.patch_embed(x))
        return self.neck(x), x


class Pointwise(nn.Module):
    """A convolution of one pixel as the matrix product that it is.

    With one thread torch's own would copy the picture, channel by channel.

    Args:
        convolution: of one pixel, without stride or groups.

    Example:
        >>> convolution, x = nn.Conv2d(2, 3, 1), torch.ones(1, 2, 4, 4)
        >>> bool(torch.allclose(Pointwise(convolution)(x), convolution(x), atol=1e-6))
        True
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Reuse the weights."""
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        y = nn.functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return y.permute(0, 3, 1, 2)


def gelu_in_place(x: Tensor) -> Tensor:
    """Overwrite a tensor with its GELU: new memory for 67 MB takes as long as the function.

    Example:
        >>> x = torch.linspace(-3, 3, 7)
        >>> y = nn.functional.gelu(x)
        >>> gelu_in_place(x) is x and torch.equal(x, y)
        True
    """
    result: Tensor = torch.ops.aten.gelu_.default(x)
    return result


class InPlaceGelu(nn.Module):
    """A layer of :func:`gelu_in_place`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to itself."""
        return gelu_in_place(x)


def fold(encoder: nn.Module) -> None:
    """Fold batch normalisations into the convolutions before them, and keep channels together.

    On the CPU convolutions of one pixel become matrix products, GELU overwrites its input, and
    attention is computed step by step: its fused form looks for rows that are masked as a whole,
    and there are none. The embedding stays the same up to rounding, and costs a third less there.

    Args:
        encoder: with its weights, in evaluation mode, on its device; it changes in place.
    """
    on_cpu = next(encoder.parameters()).device.type == "cpu"
    for layer in encoder.modules():
        inner = dict(layer.named_children())
        convolution, norm = inner.get("conv"), inner.get("bn")
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layer.conv, layer.bn = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    encoder.to(memory_format=torch.channels_last)
    if on_cpu:
        _replace_layers(encoder)


def _replace_layers(encoder: nn.Module) -> None:
    for layer in list(encoder.modules()):
        if hasattr(layer, "fused_attn"):
            cast(Any, layer).fused_attn = False
        for name, inner in list(layer.named_children()):
            if isinstance(inner, nn.GELU):
                setattr(layer, name, InPlaceGelu())
            elif isinstance(inner, nn.Conv2d) and inner.kernel_size == inner.stride == (1, 1):
                setattr(layer, name, Pointwise(inner))


def build_encoder(spec: VariantSpec) -> VitEncoder | TinyVitEncoder:
    """Build a variant's encoder with random weights."""
    if isinstance(spec.encoder, VitSize):
        return VitEncoder(spec.encoder, spec.input_px, spec.adapters)
    return TinyVitEncoder()
