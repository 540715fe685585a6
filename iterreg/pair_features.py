"""Where the features of a pair come from: Segment Anything's encoder, or a function of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.errors import ConfigError, PluginError
from iterreg.features import FeatureMaps, extent_of, reduce_jointly
from iterreg.geometry import canonical
from iterreg.image import Image
from iterreg.optimize.pair import Pair
from iterreg.plugins import guarded
from iterreg.progress import Progress, StageTimer

FeatureFunction = Callable[[Image, Image], Sequence[Any]]
"""(fixed, moving) to the features of each: (C, *cells), in the order of the image's own axes."""

FRACTION, START_FRACTION = 0.1, 0.2
"""The share of the whole work that is done before the features and after them."""

MESSAGE = "computing features of both images"


def check_features(config: Config, function: FeatureFunction | None) -> None:
    """Refuse features that nothing compares, and a comparison without features.

    Args:
        config: of the registration.
        function: the user's, or None.

    Raises:
        ConfigError: naming the setting.
        TypeError: it is no function.
    """
    if function is not None and not callable(function):
        raise TypeError(
            f"features: expected a function (fixed, moving), got {type(function).__name__}"
        )
    asked = "features" in _kinds(config)
    if asked and function is None:
        raise ConfigError(
            "similarity.kind features: expected a function, in Python: "
            "optimize_pair(..., features=function); got none"
        )
    if function is not None and not asked:
        raise ConfigError(
            "features: a function was given, but similarity.kind is "
            f"{' and '.join(_kinds(config))}; choose similarity.kind = features"
        )
    if {"sam", "features"} <= set(_kinds(config)):
        raise ConfigError("similarity.kind: expected sam or features, got both")


def with_features(
    pair: Pair,
    config: Config,
    images: tuple[Image, Image],
    function: FeatureFunction | None,
    timer: StageTimer,
) -> Pair:
    """The pair with the features that its similarities compare; as it was if they need none.

    Args:
        pair: of tensors.
        config: resolved.
        images: fixed and moving.
        function: the user's, or None.
        timer: announces and times the encoding.

    Raises:
        WeightsError: the encoder has no weights.
        PluginError: the user's function fails, or returns something else.
    """
    kinds = _kinds(config)
    if not {"sam", "features"} & set(kinds):
        return pair
    with timer.stage("features", FRACTION, MESSAGE):
        if "sam" in kinds:
            maps = _of_encoder(config, images, pair.fixed.device, timer)
        else:
            assert function is not None, "check_features has seen it"
            maps = _of_function(config, images, function)
    first, second = (m.to(pair.fixed.device) for m in maps)
    return replace(
        pair,
        fixed=replace(pair.fixed, features=first),
        moving=replace(pair.moving, features=second),
    )


def _kinds(config: Config) -> list[str]:
    return [similarity.kind for similarity in config.similarities]


def _of_encoder(
    config: Config, images: tuple[Image, Image], device: torch.device, timer: StageTimer
) -> tuple[FeatureMaps, FeatureMaps]:
    from iterreg.samreg.cache import RoiCache, default_folder
    from iterreg.samreg.features import load_encoder, sam_features

    def on_fraction(done: float) -> None:
        share = FRACTION + done * (START_FRACTION - FRACTION)
        timer.callback(Progress("features", share, MESSAGE))

    encoder = load_encoder(config.features, str(device))
    return sam_features(images, config.features, encoder, RoiCache(default_folder()), on_fraction)


def _of_function(
    config: Config, images: tuple[Image, Image], function: FeatureFunction
) -> tuple[FeatureMaps, FeatureMaps]:
    label = "features (the given function)"
    answer = guarded(label, function, *images)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise PluginError(
            f"{label}: expected two arrays, of the fixed and of the moving image, got "
            f"{type(answer).__name__}"
        )
    fixed, moving = (
        _cells(label, values, image) for values, image in zip(answer, images, strict=True)
    )
    if len(fixed) != len(moving):
        raise PluginError(
            f"{label}: expected as many channels of both images, got {len(fixed)} and {len(moving)}"
        )
    reduced = reduce_jointly(fixed, moving, config.features.channels)
    first, second = (
        FeatureMaps.covering(cells, extent_of(image.grid))
        for cells, image in zip(reduced, images, strict=True)
    )
    return first, second


def _cells(label: str, values: Any, image: Image) -> Tensor:
    """(C, z, y, x) float32 in canonical order.

    Raises:
        PluginError: it is no array (C, *cells) of finite numbers.
    """
    rank = image.grid.rank
    cells = guarded(label, torch.as_tensor, values).detach().cpu().float()
    if cells.ndim != rank + 1 or 0 in cells.shape:
        raise PluginError(
            f"{label}: expected (C, *cells) with {rank} axes of cells for {image.name}, got shape "
            f"{tuple(cells.shape)}"
        )
    if not bool(cells.isfinite().all()):
        raise PluginError(f"{label}: expected finite numbers for {image.name}, got NaN or infinity")
    cells = canonical(image.grid)[1].apply(cells)
    return cells.unsqueeze(1) if rank == 2 else cells
