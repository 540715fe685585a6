"""From a variant's name and its weights to a segmenter."""

from __future__ import annotations

from pathlib import Path

import torch

from iterreg.errors import WeightsError
from iterreg.samreg.checkpoint import fill, read_checkpoint
from iterreg.samreg.models import SamModel, SamSegmenter
from iterreg.samreg.segmenter import Segmenter
from iterreg.samreg.variants import VariantSpec, find_variant
from iterreg.samreg.weights import cached_weights

ANSWERS = 1
"""Part of the fingerprint: raised when a change here makes the same weights answer otherwise."""


def load_segmenter(
    variant: str,
    checkpoint: Path | None,
    device: torch.device,
    precision: torch.dtype | None = None,
) -> Segmenter:
    """A variant with its weights, on a device.

    Args:
        variant: a name of :data:`~iterreg.samreg.variants.VARIANTS`.
        checkpoint: its weights, a file or a folder of the transformers library; None takes them
            from the cache.
        device: where it runs.
        precision: see :class:`~iterreg.samreg.models.SamSegmenter`.

    Raises:
        ConfigError: unknown variant.
        WeightsError: no weights, a damaged file, or the weights of something else.
    """
    spec = find_variant(variant)
    path = checkpoint if checkpoint is not None else cached_weights(spec)
    state, sha256 = read_checkpoint(path)
    if checkpoint is None and spec.sha256 not in (None, sha256):
        raise WeightsError(
            f"{path}: damaged: expected sha256 {spec.sha256}, got {sha256}; "
            f"get it again: iterreg weights fetch {spec.name}"
        )
    model = empty_model(spec)
    fill(model, state, spec, path)
    fingerprint = f"{spec.name}-{sha256[:16]}-{ANSWERS}"
    return SamSegmenter(spec, model, device, fingerprint, precision)


def empty_model(spec: VariantSpec) -> SamModel:
    """A variant's architecture with all names and shapes, before it has weights."""
    with torch.device("meta"):
        return SamModel(spec)
