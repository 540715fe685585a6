"""What a Segment Anything model is to the rest: it encodes a picture once, then decodes points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """What the encoder says of one picture.

    Args:
        features: (C, h, w) float32, of the model's whole input, padding included.
        size_hw: the picture's height and width, pixels.
        valid_hw: the part of the input that shows the picture, as shares (0, 1] of its height and
            width, from the upper left corner; the rest is padding.
        intermediate: further features that some decoders need (HQ-SAM); empty for the others.
    """

    features: Tensor
    size_hw: tuple[int, int]
    valid_hw: tuple[float, float]
    intermediate: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Masks:
    """What the decoder says of N points: M candidate masks each.

    Args:
        logits: (N, M, h, w), of the model's whole input at the decoder's resolution; positive
            inside.
        predicted_iou: (N, M), the decoder's own judgement of each mask.
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
        """Where it runs."""

    @property
    def fingerprint(self) -> str:
        """What its answers depend on: the variant and its weights' checksum."""

    def encode(self, pictures: Sequence[Tensor]) -> list[Embedding]:
        """Encode pictures, each (H, W, 3) uint8 RGB; sizes may differ."""

    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """Decode one foreground point per mask: (N, 2) pixels of the picture, x before y, the
        centre of the first pixel at (0.5, 0.5)."""
