"""Read checkpoints safely, and fill a model with exactly its weights.

Accepted are the authors' files (a plain state dict, or one under the key ``model``) and the layout
of the transformers library (``SamModel``, ``SamHQModel``): a ``.safetensors`` or ``.bin`` file, or
the folder that contains one. Pickled programs are never run.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from iterreg.errors import WeightsError
from iterreg.samreg.names import our_names
from iterreg.samreg.variants import VARIANTS, VariantSpec

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in a folder of the transformers library."""

OPTIMISERS = ("torch.optim.adam.Adam", "torch.optim.adamw.AdamW", "torch.optim.sgd.SGD")
"""SAM-Med2D's checkpoint also contains a pickled optimiser, which is skipped."""


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the weights of a checkpoint, under the names that :class:`SamModel` uses.

    Args:
        path: a file, or a folder of the transformers library.

    Returns:
        The weights in float32, and the file's sha256.

    Raises:
        WeightsError: missing, damaged, not a checkpoint, or one that contains a program.
    """
    file = _file(path)
    weights = our_names(_state_dict(_read(file), file))
    weights = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    return weights, checksum(file)


def checksum(file: Path) -> str:
    """Compute a file's sha256.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror or error}") from error


def fill(model: nn.Module, state: Mapping[str, Tensor], spec: VariantSpec, path: Path) -> None:
    """Fill a model with its weights, which must match exactly.

    Raises:
        WeightsError: a weight is missing, unknown, or of another shape.
    """
    expected = {key: value.shape for key, value in model.state_dict().items()}
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    other = [key for key in expected if key in state and state[key].shape != expected[key]]
    if missing or extra or other:
        wrong = [
            f"{len(keys)} {kind} (such as {keys[0]})"
            for kind, keys in (("missing", missing), ("unknown", extra), ("of another size", other))
            if keys
        ]
        raise WeightsError(
            f"{path}: not a checkpoint of {spec.name}: of its weights, {', '.join(wrong)}"
            f"{_guess(state)}"
        )
    model.load_state_dict(state, strict=True, assign=True)


def _file(path: Path) -> Path:
    if not os.path.exists(path):
        raise WeightsError(f"{path}: no such checkpoint")
    if not os.path.isdir(path):
        return path
    for name in HUB_FILES:
        if os.path.isfile(path / name):
            return path / name
    raise WeightsError(f"{path}: expected {' or '.join(HUB_FILES)} in this folder, got neither")


class _Skipped:
    """Replaces an object in a checkpoint that is not a weight."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the object's state."""


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Replace an optimiser's ``defaultdict``, which torch does not load safely."""
    return {}


def _read(file: Path) -> Any:
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        allowed: list[Any] = [dict, (_plain_dict, "collections.defaultdict")]
        allowed += [(_Skipped, name) for name in OPTIMISERS]
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # A damaged file can raise almost anything.
        program = re.search(r"Unsupported (?:global|class): GLOBAL ([\w.]+)", str(error))
        if program:
            raise WeightsError(
                f"{file}: refused: it contains a pickled program ({program[1]}), not only weights; "
                "save its state dict, or use the authors' file with weights only"
            ) from error
        raise WeightsError(
            f"{file}: expected a checkpoint, got a file that is damaged, truncated or of another "
            "kind"
        ) from error


def _state_dict(loaded: Any, file: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{file}: expected weights by name, got {type(loaded).__name__}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        raise WeightsError(f"{file}: expected weights by name, got other objects among them")
    return dict(loaded)


def _guess(state: Mapping[str, Tensor]) -> str:
    """Name the variants that a state dict looks like, in words."""
    names = [spec.name for spec in VARIANTS.values() if _looks_like(state, spec)]
    return f"; it looks like {' or '.join(names)}" if names else ""


def _looks_like(state: Mapping[str, Tensor], spec: VariantSpec) -> bool:
    def any_of(parts: Iterable[str]) -> bool:
        return any(part in key for key in state for part in parts)

    if any_of(["mask_decoder.hf_token"]) != spec.high_quality:
        return False
    if spec.encoder == "tiny_vit":
        return any_of(["image_encoder.stages."])
    if any_of([".mlp.adapter."]) != spec.adapters:
        return False
    pos_embed = state.get("image_encoder.pos_embed")
    if pos_embed is None:
        return False
    return tuple(pos_embed.shape) == (1, spec.grid_px, spec.grid_px, spec.encoder.width)
