"""Load a variant with its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from iterreg.errors import WeightsError
from iterreg.samreg.checkpoint import fill, read_checkpoint
from iterreg.samreg.models import SamModel, SamSegmenter
from iterreg.samreg.segmenter import Segmenter
from iterreg.samreg.variants import VariantSpec, find_variant
from iterreg.samreg.weights import cached_weights

FINGERPRINT_VERSION = 1
"""Part of the fingerprint. Raise it when a change of code changes the masks of the same weights."""


def load_segmenter(
    variant: str,
    checkpoint: Path | None,
    device: torch.device,
    precision: torch.dtype | None = None,
) -> Segmenter:
    """Load a variant with its weights onto a device.

    Args:
        variant: a name of :data:`~iterreg.samreg.variants.VARIANTS`.
        checkpoint: its weights, a file or a folder of the transformers library; None takes them
            from the cache.
        device: the device to run on.
        precision: see :class:`~iterreg.samreg.models.SamSegmenter`.

    Raises:
        ConfigError: unknown variant.
        WeightsError: no weights, a damaged file, or the weights of another model.
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
    fingerprint = f"{spec.name}-{sha256[:16]}-{FINGERPRINT_VERSION}"
    return SamSegmenter(spec, model, device, fingerprint, precision)


def empty_model(spec: VariantSpec) -> SamModel:
    """Build a variant's architecture with all names and shapes, but no weights."""
    with torch.device("meta"):
        return SamModel(spec)
