"""A cache on disk of everything mode's results, so that a second run encodes nothing.

A key is a hash of the picture's pixels, the weights' fingerprint and the settings. A value holds
the masks in run-length form, their prototypes and the picture's mean embedding. A file that cannot
be read counts as absent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.atomic import write_aside
from iterreg.errors import OutputError
from iterreg.folders import cache_folder, tell_once
from iterreg.samreg.everything import EverythingSettings, Rois
from iterreg.samreg.rle import RunLengthMask

CACHE_VERSION = 2
"""Part of the key. Raise it when the files, or the meaning of their numbers, change."""


LARGEST_BYTES = 1 << 28
"""A larger file, or array in it, is not the result of one slice."""

ARRAYS = {
    "shape": np.int64,
    "lengths": np.int64,
    "runs": np.int32,
    "prototypes": np.float32,
    "predicted_iou": np.float32,
    "mean": np.float32,
    "counts": np.int64,
}
"""The arrays of a file, and their types."""


class RoiCache:
    """A folder of results, one file per picture.

    Args:
        folder: created with the first result; None disables the cache.
    """

    def __init__(self, folder: Path | None) -> None:
        """Remember the folder; nothing is read or created yet."""
        self.folder = folder

    def find(self, key: str, shape: tuple[int, int] | None = None) -> Rois | None:
        """Return the result stored under a key.

        Args:
            key: from :func:`cache_key`.
            shape: rows and columns that its masks must have; None takes any.

        Returns:
            The result; None if there is no file, or one that is damaged in any way.
        """
        if self.folder is None:
            return None
        try:
            # np.load leaves the file open if it is damaged.
            path = self.folder / f"{key}.npz"
            if path.stat().st_size > LARGEST_BYTES:
                return None
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return _unpack({name: _array(arrays, name) for name in ARRAYS}, shape)
        except Exception:  # whatever a damaged file may cause
            return None

    def store(self, key: str, rois: Rois) -> None:
        """Store a result; do nothing if the folder cannot be written."""
        if self.folder is None:
            return
        lengths = [len(m.runs) for m in rois.masks]
        arrays: dict[str, Any] = {
            "shape": np.array(rois.masks[0].shape if rois.masks else (0, 0), np.int64),
            "lengths": np.array(lengths, np.int64),
            "runs": np.concatenate([np.array(m.runs, np.int32) for m in rois.masks])
            if lengths
            else np.zeros(0, np.int32),
            "prototypes": rois.prototypes.numpy(),
            "predicted_iou": rois.predicted_iou.numpy(),
            "mean": rois.mean.numpy(),
            "counts": np.array([rois.points, rois.candidates], np.int64),
        }
        self._write(key, arrays)

    def find_features(self, key: str) -> tuple[Tensor, tuple[float, float]] | None:
        """Return the features of a picture; None without a sound file.

        Args:
            key: from :func:`features_key`.

        Returns:
            (C, h, w) float32, and the part of them that shows the picture: ``valid_hw`` of
            :class:`~iterreg.samreg.segmenter.Embedding`.
        """
        if self.folder is None:
            return None
        try:
            path = self.folder / f"{key}.npz"
            if path.stat().st_size > LARGEST_BYTES:
                return None
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                features, valid = (_array(arrays, name) for name in ("features", "valid_hw"))
            if features.dtype != np.float16 or features.ndim != 3 or valid.shape != (2,):
                return None
            height, width = (float(v) for v in valid)
            sound = np.all(np.isfinite(features)) and 0 < height <= 1 and 0 < width <= 1
            return (torch.from_numpy(features).float(), (height, width)) if sound else None
        except Exception:  # whatever a damaged file may cause
            return None

    def store_features(self, key: str, features: Tensor, valid_hw: tuple[float, float]) -> None:
        """Store features in half precision; do nothing if the folder cannot be written."""
        if self.folder is None:
            return
        arrays: dict[str, Any] = {
            "features": features.half().cpu().numpy(),
            "valid_hw": np.array(valid_hw, np.float64),
        }
        self._write(key, arrays)

    def _write(self, key: str, arrays: dict[str, Any]) -> None:
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{key}.npz"
            write_aside(file, lambda new: np.savez(new, allow_pickle=False, **arrays))
        except (OSError, OutputError):
            tell_once("regions of slices", self.folder)


def features_key(picture: Tensor, fingerprint: str) -> str:
    """Compute the key of a picture's features.

    Args:
        picture: (H, W, 3) uint8.
        fingerprint: of the segmenter.
    """
    header = [CACHE_VERSION, "features", fingerprint, list(picture.shape)]
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(picture.contiguous().numpy().tobytes())
    return digest.hexdigest()


def default_folder() -> Path | None:
    """Return the default folder: see :func:`iterreg.folders.cache_folder`."""
    folder = cache_folder("rois")
    if folder is None:
        tell_once("regions of slices", None)
    return folder


def cache_key(
    picture: Tensor, shape: tuple[int, int], fingerprint: str, settings: EverythingSettings
) -> str:
    """Compute the key of a picture's result.

    Args:
        picture: (H, W, 3) uint8.
        shape: rows and columns of the masks.
        fingerprint: of the segmenter.
        settings: all of them count but the batch size.
    """
    values = dataclasses.asdict(settings)
    del values["batch"]
    for prompts in ("more", "boxes", "aimed"):
        if not values[prompts]:
            del values[prompts]
    header = [CACHE_VERSION, fingerprint, list(picture.shape), list(shape), values]
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(picture.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _array(arrays: Any, name: str) -> NDArray[Any]:
    """One array, whose header does not ask for more than a result can need."""
    with arrays.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}[version]
        shape, _, dtype = read(member)
    if math.prod(shape) * dtype.itemsize > LARGEST_BYTES:
        raise ValueError(f"{name}: {shape}")
    array: NDArray[Any] = arrays[name]
    return array


def _unpack(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int] | None) -> Rois:
    """Make the result.

    Raises:
        ValueError: the arrays do not fit each other.
        ImageContentError: the runs do not fill the shape.
    """
    for name, kind in ARRAYS.items():
        if arrays[name].dtype != kind or not np.all(np.isfinite(arrays[name])):
            raise ValueError(name)
    lengths, runs, mean = (arrays[name] for name in ("lengths", "runs", "mean"))
    count, found = len(lengths), tuple(arrays["shape"].tolist())
    fits = (
        lengths.ndim == runs.ndim == mean.ndim == 1
        and (count == 0 or (lengths.min() > 0 and shape in (None, found)))
        and lengths.sum() == len(runs)
        and arrays["prototypes"].shape == (count, len(mean))
        and arrays["predicted_iou"].shape == (count,)
        and arrays["counts"].shape == (2,)
        and arrays["counts"].min() >= 0
    )
    if not fits:
        raise ValueError("arrays that do not fit each other")
    return Rois(
        tuple(
            RunLengthMask(found, tuple(part.tolist()))
            for part in np.split(runs, np.cumsum(lengths)[:-1])
            if count
        ),
        torch.from_numpy(arrays["prototypes"]),
        torch.from_numpy(arrays["predicted_iou"]),
        torch.from_numpy(mean),
        *arrays["counts"].tolist(),
    )
