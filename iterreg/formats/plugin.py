"""Transform formats of plug-ins: checked, and guarded where they are called."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from iterreg.displacement import Transform
from iterreg.errors import PluginError
from iterreg.formats.loaded import Loaded
from iterreg.formats.types import Sides, TransformFormat
from iterreg.geometry import Grid
from iterreg.plugins import guarded


def adapt(label: str, value: Any) -> TransformFormat:
    """Make a row of ``TRANSFORM_FORMATS`` of a plug-in's format.

    Args:
        label: the plug-in, for messages.
        value: a :class:`~iterreg.formats.types.TransformFormat`. Its ``load`` may return a
            :class:`iterreg.Transform`.

    Raises:
        PluginError: it is something else, or its parts are of another kind.
    """
    if not isinstance(value, TransformFormat):
        raise PluginError(
            f"{label}: expected an iterreg.TransformFormat, got {type(value).__name__}"
        )
    suffixes = (*value.read_suffixes, *value.write_suffixes)
    if not suffixes or not all(isinstance(s, str) and s.startswith(".") for s in suffixes):
        raise PluginError(f"{label}: expected suffixes such as '.txt', got {suffixes}")
    if value.write_suffixes and value.write is None:
        raise PluginError(f"{label}: expected a function to write {value.write_suffixes}")
    return replace(
        value,
        recognises=partial(guarded, label, value.recognises),
        load=partial(_load, label, value),
        write=None if value.write is None else partial(_write, label, value),
    )


def _load(label: str, value: TransformFormat, path: Path, sides: Sides) -> Loaded:
    answer: Any = guarded(label, value.load, path, sides)
    if isinstance(answer, Transform):
        return Loaded(str(path), answer.grid.rank, answer.affine_lps, answer.field)
    if not isinstance(answer, Loaded):
        raise PluginError(
            f"{label}: {path}: expected an iterreg.Transform, got {type(answer).__name__}"
        )
    return answer


def _write(label: str, value: TransformFormat, transform: Transform, path: Path, grid: Grid) -> str:
    assert value.write is not None
    said: Any = guarded(label, value.write, transform, path, grid)
    return said if isinstance(said, str) else value.meaning
