"""Segment an image with a bundle of MONAI, an optional package.

A bundle is a folder with ``configs/inference.json`` (or ``.yaml``), ``configs/metadata.json`` and
``models/model.pt``. Its parts ``preprocessing``, ``network_def``, ``inferer`` and
``postprocessing`` are run as MONAI's own evaluator runs them, on one image. A bundle's
configuration can run code: take bundles only from people that you trust. Weights are loaded as
weights alone.

Source: the bundle specification of MONAI, mb_specification in its documentation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iterreg.atomic import scratch_folder
from iterreg.displacement import DisplacementField, Transform, warp_labels
from iterreg.errors import ConfigError, SegmentationError, WeightsError
from iterreg.image import Image, LabelMap
from iterreg.io import as_label_map, write_image
from iterreg.regions._networks import foreign_code, require_volume
from iterreg.regions.label_files import checked_names
from iterreg.texts import TextError, parse_json
from iterreg.versions import import_package

INSTALL = "pip install monai"
CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
PARTS = ("preprocessing", "network_def", "inferer", "postprocessing")
"""What a bundle's configuration has to define."""

WRITERS = ("SaveImage", "SaveImaged")
"""Steps of a postprocessing that only write files."""


@dataclass(frozen=True)
class MonaiBundle:
    """A bundle, ready to run.

    Args:
        folder: it was loaded from.
        parts: what its configuration defines, by name; the network with its weights.
        channels: the name of each channel of the prediction.
        device: runs the network.
    """

    folder: Path
    parts: dict[str, Any]
    channels: dict[int, str]
    device: torch.device

    @classmethod
    def load(cls, folder: str | Path, device: str) -> MonaiBundle:
        """Load a bundle that segments volumes of one channel.

        Args:
            folder: of the bundle.
            device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

        Raises:
            MissingDependencyError: MONAI is not installed.
            ConfigError: the folder is no bundle, or its configuration lacks a part.
            WeightsError: no weights, or for another network.
        """
        folder = Path(folder)
        configs = [folder / "configs" / name for name in CONFIGS]
        config = next((path for path in configs if os.path.isfile(path)), None)
        if config is None:
            raise ConfigError(
                f"{folder}: expected a bundle of MONAI, with configs/inference.json, got none"
            )
        metadata = folder / "configs" / "metadata.json"
        channels = channel_names(metadata)
        where = torch.device(device)
        with foreign_code(str(folder), "MONAI"):
            bundle = import_package("monai.bundle", "the segmenter monai", INSTALL)
            parser = bundle.ConfigParser()
            parser.read_config(str(config))
            parser.read_meta(str(metadata))
            missing = [part for part in PARTS if part not in parser]
            if missing:
                raise ConfigError(f"{config}: expected {', '.join(PARTS)}, got no {missing[0]}")
            parser["bundle_root"], parser["device"] = str(folder), where
            parts = {part: parser.get_parsed_content(part) for part in PARTS}
        _load_weights(parts["network_def"], folder / "models" / "model.pt")
        parts["network_def"].to(where).eval()
        steps = [s for s in _steps(parts["postprocessing"]) if type(s).__name__ not in WRITERS]
        parts["postprocessing"] = steps
        return cls(folder, parts, channels, where)

    def segment(self, image: Image) -> LabelMap:
        """Segment a volume, on its own grid.

        Raises:
            ImageContentError: the image is not a volume with one channel.
            SegmentationError: the bundle fails, or finds nothing.
        """
        require_volume(image, "MONAI")
        with scratch_folder() as scratch, foreign_code(image.name, "MONAI"), torch.no_grad():
            write_image(image, scratch / "image.nii.gz")
            item = self.parts["preprocessing"]({"image": str(scratch / "image.nii.gz")})
            batch = item["image"][None].to(self.device)
            answer = self.parts["inferer"](batch, self.parts["network_def"])
            item["pred"] = _like(answer[0], item["image"])
            for step in self.parts["postprocessing"]:
                item = step(item)
            found = _one_channel(item["pred"].cpu(), self.channels)
        name = f"MONAI of {image.name}"
        labels = replace(as_label_map(found, name, self.names), name=name)
        if not labels.grid.same_space(image.grid):
            still = Transform(np.eye(4), DisplacementField.zero(image.grid))
            labels = warp_labels(labels, still)
        if not labels.values:
            raise SegmentationError(f"{image.name}: MONAI found only background")
        return labels

    @property
    def names(self) -> dict[int, str]:
        """The name of each label."""
        shift = 0 if has_background(self.channels) else 1
        rows = ((channel + shift, name) for channel, name in self.channels.items())
        return checked_names(rows, str(self.folder))


def channel_names(metadata: Path) -> dict[int, str]:
    """The name of each channel of a bundle's prediction, from its ``metadata.json``.

    Raises:
        ConfigError: it cannot be read, or names no channels.

    Example:
        >>> _ = Path("metadata.json").write_text('''{"network_data_format": {"outputs": {"pred":
        ... {"channel_def": {"0": "background", "1": "spleen"}}}}}''')
        >>> channel_names(Path("metadata.json"))
        {0: 'background', 1: 'spleen'}
    """
    try:
        tables = parse_json(metadata.read_text("utf-8"))
        outputs = tables["network_data_format"]["outputs"]
        found = outputs.get("pred") or next(iter(outputs.values()))
        return {int(channel): str(name) for channel, name in found["channel_def"].items()}
    except (OSError, TextError, ValueError) as error:
        raise ConfigError(f"{metadata}: cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ConfigError(
            f"{metadata}: expected network_data_format.outputs.pred.channel_def, which names the "
            "labels"
        ) from error


def has_background(channels: dict[int, str]) -> bool:
    """Whether the first channel is background, so that a voxel has the label of its channel."""
    return channels.get(0, "").strip().lower() == "background"


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    """Load weights into a network.

    Raises:
        WeightsError: no file, or for another network.
    """
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: expected the weights of the bundle, got no file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: expected weights of the bundle's network: {reason}") from error


def _steps(composed: Any) -> list[Any]:
    """The steps of a composed transform."""
    return list(getattr(composed, "transforms", [composed]))


def _like(prediction: Tensor, image: Any) -> Any:
    """A prediction that knows where it lies, and what was done to its image."""
    tensor = import_package("monai.data", "the segmenter monai", INSTALL).MetaTensor
    return tensor(
        torch.as_tensor(prediction).cpu(),
        meta=image.meta,
        applied_operations=image.applied_operations,
    )


def _one_channel(prediction: Any, channels: dict[int, str]) -> Any:
    """A prediction (C, x, y, z) as labels (1, x, y, z); a voxel gets the smallest that holds it."""
    if prediction.shape[0] == 1:
        return prediction
    if has_background(channels):
        return prediction.argmax(0, keepdim=True)
    labels = torch.zeros_like(prediction[:1])
    sizes = prediction.flatten(1).sum(1)
    for channel in torch.argsort(sizes, descending=True).tolist():
        labels[0][prediction[channel] > 0.5] = channel + 1
    return labels
