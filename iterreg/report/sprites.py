"""Put the slices of a layer side by side into one picture, and the picture into the page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from iterreg.devices import side_by_side
from iterreg.report.layers import DISPLAYED_LOG2, GREY_LAYERS, Bytes, PlaneStack, Stacks

LOSSY = (*GREY_LAYERS, "jacobian", "error")
"""Layers for the eye alone. The others hold numbers and are stored without loss."""

QUALITY = 80
COMPRESSION = 6


def viewer_data(stacks: Stacks, names: list[str]) -> dict[str, Any]:
    """The pictures and scales as the viewer takes them, ready for JSON.

    Args:
        stacks: the slices.
        names: of the regions, in the order of their numbers in the layer ``labels``.
    """
    layers = [(stack, name) for stack in stacks.planes for name in stack.layers]
    addresses = side_by_side(lambda layer: _address(*layer), layers)
    sheets: dict[str, dict[str, str]] = {stack.name: {} for stack in stacks.planes}
    for (stack, name), address in zip(layers, addresses, strict=True):
        sheets[stack.name][name] = address
    return {
        "motionMm": stacks.motion_mm,
        "errorMm": stacks.error_mm,
        "log2": DISPLAYED_LOG2,
        "regions": names,
        "planes": [_plane(stack, sheets[stack.name]) for stack in stacks.planes],
    }


def _address(stack: PlaneStack, name: str) -> str:
    """A layer as a ``data:`` address."""
    return data_uri(sheet(stack.layers[name])[0], name in LOSSY)


def sheet(frames: Bytes) -> tuple[Bytes, int]:
    """All frames in one picture, row by row, and how many stand in a row.

    Args:
        frames: (n, rows, columns).

    Example:
        >>> picture, across = sheet(np.arange(3, dtype=np.uint8).reshape(3, 1, 1))
        >>> picture.tolist(), across
        ([[0, 1], [2, 0]], 2)
    """
    count, rows, columns = frames.shape
    across = _across(count)
    down = -(-count // across)
    padded = np.zeros((across * down, rows, columns), np.uint8)
    padded[:count] = frames
    tiles = padded.reshape(down, across, rows, columns).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles.reshape(down * rows, across * columns)), across


def _across(count: int) -> int:
    """How many of some frames stand in a row."""
    return int(np.ceil(np.sqrt(count)))


def _plane(stack: PlaneStack, sheets: dict[str, str]) -> dict[str, Any]:
    count, rows, columns = stack.layers["fixed"].shape
    return {
        "name": stack.name,
        "letters": stack.letters,
        "pixelMm": stack.pixel_mm,
        "positions": [round(p, 2) for p in stack.positions],
        "count": count,
        "rows": rows,
        "columns": columns,
        "across": _across(count),
        "sheets": sheets,
    }


def data_uri(picture: Bytes, lossy: bool) -> str:
    """A grey picture as a ``data:`` address."""
    import cv2

    if lossy:
        kind, options = "webp", [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    else:
        kind, options = "png", [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION]
    ok, packed = cv2.imencode(f".{kind}", picture, options)
    assert ok, f"no {kind} encoder"
    text = base64.b64encode(packed.tobytes()).decode("ascii")
    return f"data:image/{kind};base64,{text}"
