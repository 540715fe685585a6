"""What several test files share."""

from __future__ import annotations

import locale
import os

# Waiting threads that spin starve each other where other programs share the processor. Read when
# the OpenMP library is loaded, so before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image, LabelMap

if not torch.cuda.is_available():
    # Triton's kernels are then run by its interpreter. Read when Triton is loaded.
    os.environ.setdefault("TRITON_INTERPRET", "1")

Reorient = Callable[..., Image]

OWN_LOCALE = locale.setlocale(locale.LC_ALL)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that may be there; a test runs on all that are."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def pair_folder() -> Path:
    """The folder of the real pair that comes with the package."""
    return Path(str(resources.files("iterreg") / "data" / "thorax4dct_mini"))


@pytest.fixture(scope="session")
def segmented_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of regions for tests that segment the same two frames of a heart."""
    return tmp_path_factory.mktemp("regions")


@pytest.fixture(autouse=True)
def _own_locale() -> Iterator[None]:
    """SimpleITK's DICOM writer leaves the locale C behind, in which texts are read as ASCII."""
    locale.setlocale(locale.LC_ALL, OWN_LOCALE)
    yield
    locale.setlocale(locale.LC_ALL, OWN_LOCALE)


def reoriented_grid(grid: Grid, axes: tuple[int, ...], flipped: tuple[bool, ...]) -> Grid:
    """The grid whose array axis k is ``axes[k]`` of this one, reversed where ``flipped[k]``."""
    rank = grid.rank
    shape = tuple(grid.shape_zyx[a] for a in axes)
    first = np.zeros(rank)
    for axis, flip, size in zip(axes, flipped, shape, strict=True):
        first[axis] = size - 1 if flip else 0
    columns = np.asarray(grid.direction_lps)[:, ::-1][:, list(axes)]
    columns = columns * np.array([-1.0 if f else 1.0 for f in flipped])
    return Grid(
        shape,
        tuple(reversed([grid.spacing_zyx_mm[a] for a in axes])),
        tuple(apply_affine(grid.index_to_lps, first).tolist()),
        tuple(tuple(row) for row in columns[:, ::-1].tolist()),
    )


def reoriented_data(
    data: torch.Tensor, axes: tuple[int, ...], flipped: tuple[bool, ...]
) -> torch.Tensor:
    """The array that goes with :func:`reoriented_grid`; leading axes stay."""
    lead = data.ndim - len(axes)
    data = data.permute(*range(lead), *[lead + a for a in axes])
    return data.flip([lead + k for k, f in enumerate(flipped) if f]).contiguous()


@pytest.fixture(scope="session")
def reorient() -> Callable[..., Image | LabelMap]:
    """A function that stores an image with other axes: another header, the same places."""

    def change(
        image: Image | LabelMap, axes: tuple[int, ...], flipped: tuple[bool, ...]
    ) -> Image | LabelMap:
        grid = reoriented_grid(image.grid, axes, flipped)
        return replace(image, data=reoriented_data(image.data, axes, flipped), grid=grid)

    return change
