"""The interface of a Segment Anything model: encode a picture once, then decode points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """The encoder's result for one picture.

    Args:
        features: (C, h, w) float32, of the model's whole input including padding.
        size_hw: the picture's height and width in pixels.
        valid_hw: the part of the input that shows the picture, as fractions (0, 1] of its height
            and width from the upper left corner; the rest is padding.
        intermediate: further features that HQ-SAM's decoder needs; empty for others.
    """

    features: Tensor
    size_hw: tuple[int, int]
    valid_hw: tuple[float, float]
    intermediate: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Masks:
    """The decoder's result for N points: M candidate masks for each.

    Args:
        logits: (N, M, h, w), of the model's whole input at the decoder's resolution; positive
            inside the mask.
        predicted_iou: (N, M), the IoU that the decoder predicts for each mask.
    """

    logits: Tensor
    predicted_iou: Tensor


class Segmenter(Protocol):
    """A variant with its weights, on a device."""

    @property
    def name(self) -> str:
        """The variant, such as ``mobile_sam``."""

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""

    @property
    def fingerprint(self) -> str:
        """Identifies everything that its masks depend on: the variant and its weights."""

    def encode(self, pictures: Sequence[Tensor]) -> list[Embedding]:
        """Encode pictures, each (H, W, 3) uint8 RGB; sizes may differ."""

    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """Decode masks, each from one foreground point: (N, 2) pixels of the picture, x before y,
        the centre of the first pixel at (0.5, 0.5)."""

    def decode_boxes(self, embedding: Embedding, boxes_xyxy: Tensor) -> Masks:
        """Decode one mask for each box: (N, 4), two opposite corners as the points above. It is
        called only where a user sets boxes."""


@runtime_checkable
class Glancing(Protocol):
    """A :class:`Segmenter` that can also look at points at a fraction of the cost of decoding.

    It is no duty: without it every point is decoded.
    """

    def glance(self, embedding: Embedding, points_xy: Tensor) -> Masks | None:
        """Guess the masks of points, (N, M, h, w) at any resolution, as :meth:`Segmenter.decode`
        would find them; None if this picture's cannot be guessed."""
