"""Where the voxels of a NIfTI file are: sform, qform and pixdim, and what to do if they disagree.

The sform is a matrix, the qform a rotation with the spacing of pixdim. All three should agree.
Small differences are rounding. A larger one is told; one that exchanges axes, changes the size of
voxels or leaves no way to place them is refused, and ``--geometry`` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from iterreg.errors import GeometryError
from iterreg.io.nifti_matrices import (
    Matrix,
    in_mm,
    is_sheared,
    nearest_axes,
    of_picture,
    qform_matrix,
    spacing_of,
    unit_axes,
)

ANGLE = 2e-3
"""Two axes that differ by less (in radians) are rounding: a qform's angles are stored coarsely."""

RELATIVE_SPACING = 1e-3
"""Two spacings that differ by less than this share are rounding."""

SAME_SIZE = 1e-2
"""Two spacings that differ by more than this share are different sizes."""

ORIGIN_VOXELS = 0.01
"""Two origins that differ by less than this share of a voxel are rounding."""

SAME_AXIS = 0.7
"""Cosine. An axis that is turned further is another axis."""

MM_PER_UNIT = {1: 1e3, 3: 1e-3}
"""The units of ``xyzt_units`` that are not millimetres: metres and micrometres."""

CHOOSE = "choose with --geometry sform, qform or pixdim"


@dataclass(frozen=True)
class Placement:
    """Where the voxels are.

    Args:
        affine: nibabel's matrix, index (i, j, k) to RAS mm.
        source: what it was taken from, in words.
        notes: what the user should know.
    """

    affine: Matrix
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Told:
    """What a header tells: each matrix or None, and why it is None."""

    sform: Matrix | None
    qform: Matrix | None
    pixdim: Matrix
    sheared: bool
    missing: Mapping[str, str]


def place(path: Path, fields: Any, shape: tuple[int, ...], geometry: str) -> Placement:
    """Decide where the voxels are.

    Args:
        path: for messages.
        fields: nibabel's header.
        shape: of the image, first axis first.
        geometry: ``auto``, ``sform``, ``qform`` or ``pixdim``.

    Raises:
        GeometryError: the header leaves no way, or leaves a choice to the user.
    """
    stored = [float(s) for s in fields["pixdim"][1 : 1 + min(3, len(shape))]]
    spacing = _spacing(path, stored, geometry, int(fields["sform_code"]) > 0)
    told = _told(fields, spacing)
    found = _automatic(path, told) if geometry == "auto" else _chosen(path, told, geometry)
    if spacing != stored and geometry != "sform":
        note = f"{path}: its pixdim {stored} mm is not positive: taken without the signs"
        found = replace(found, notes=(*found.notes, note))
    return _in_mm(path, fields, found)


def _spacing(path: Path, stored: list[float], geometry: str, has_sform: bool) -> list[float]:
    """The sizes of pixdim. NIfTI wants them positive; what a sign means is the user's to say."""
    if all(np.isfinite(s) and s > 0 for s in stored):
        return stored
    if geometry == "sform" and has_sform:
        return [1.0] * len(stored)  # As sizes that were never filled in.
    signs_alone = all(np.isfinite(s) and s != 0 for s in stored)
    if geometry in ("qform", "pixdim") and signs_alone:
        return [abs(s) for s in stored]
    ways = ["--geometry sform leaves it aside"] if has_sform else []
    ways += ["--geometry qform or pixdim takes it without the signs"] if signs_alone else []
    way = "; ".join(ways) or "write the sizes of a voxel into its header"
    raise GeometryError(f"{path}: expected a positive spacing, got pixdim {stored} mm; {way}")


def _told(fields: Any, spacing: list[float]) -> _Told:
    """Read the three ways in which a header places its voxels."""
    missing = {}
    sform, sheared = None, False
    if int(fields["sform_code"]) <= 0:
        missing["sform"] = "its header has none (sform_code 0)"
    else:
        matrix = np.asarray(fields.get_sform(), np.float64)
        if len(spacing) < 3:
            matrix = of_picture(matrix)
        if not np.isfinite(matrix).all() or abs(np.linalg.det(unit_axes(matrix))) < 1e-3:
            missing["sform"] = "its sform is no matrix of three axes"
        else:
            sform, sheared = matrix, is_sheared(matrix)
    qform = None
    if int(fields["qform_code"]) <= 0:
        missing["qform"] = "its header has none (qform_code 0)"
    else:
        qform = qform_matrix(fields, spacing)
        if qform is None:
            missing["qform"] = "its qform is no rotation"
    # The voxels of pixdim, turned and placed as the header says elsewhere.
    placed = qform if qform is not None else sform
    sizes = np.array([*spacing, 1.0, 1.0, 1.0][:3])
    pixdim = np.diag([*sizes * (-1.0, -1.0, 1.0), 1.0])
    if placed is not None:
        pixdim = placed.copy()
        pixdim[:3, :3] = nearest_axes(placed) * sizes
    return _Told(sform, qform, pixdim, sheared, missing)


def _automatic(path: Path, told: _Told) -> Placement:
    """Take what is beyond doubt, with a note where it had to be weighed."""
    sform, qform = told.sform, told.qform
    if sform is None and qform is None:
        codes = "qform and sform code 0"
        if any("code 0" not in why for why in told.missing.values()):
            raise GeometryError(
                f"{path}: expected a header that places its voxels, but "
                f"{' and '.join(told.missing.values())}; --geometry pixdim takes the spacing alone"
            )
        note = (
            f"{path}: its header does not say where the voxels are ({codes}): "
            "taken as LPS axes with the origin at 0; left and right may be exchanged"
        )
        return Placement(told.pixdim, "pixdim", (note,))
    if sform is None:
        assert qform is not None
        broken = "code 0" not in told.missing["sform"]
        note = f"{path}: {told.missing['sform']}: taken from the qform"
        return Placement(qform, "qform", (note,) if broken else ())
    if told.sheared:
        if qform is None:
            raise GeometryError(
                f"{path}: expected orthogonal axes, got a sheared sform matrix and no qform: "
                "resample the image, or take the nearest straight axes with --geometry pixdim"
            )
        note = f"{path}: its sform is sheared: taken from the qform"
        return Placement(qform, "qform", (note,))
    if qform is None:
        broken = "code 0" not in told.missing["qform"]
        note = f"{path}: {told.missing['qform']}: taken from the sform"
        return _by_size(path, sform, told.pixdim, (note,) if broken else ())
    return _weighed(path, sform, qform)


def _by_size(path: Path, sform: Matrix, pixdim: Matrix, notes: tuple[str, ...]) -> Placement:
    """An sform alone. Sizes of 1 on one side were never filled in, so the other side is right."""
    sizes = spacing_of(sform), spacing_of(pixdim)
    if np.allclose(*sizes, rtol=RELATIVE_SPACING):
        return Placement(sform, "sform", notes)
    says = (
        f"{path}: its sform says voxels of {in_mm(sizes[0])} mm and its pixdim {in_mm(sizes[1])} mm"
    )
    if np.all(sizes[0] == 1):
        return Placement(pixdim, "pixdim", (*notes, f"{says}: taken from pixdim"))
    if np.all(sizes[1] == 1) or np.allclose(*sizes, rtol=SAME_SIZE):
        return Placement(sform, "sform", (*notes, f"{says}: taken from the sform"))
    raise GeometryError(f"{says}: expected one size: choose with --geometry sform or pixdim")


def _weighed(path: Path, sform: Matrix, qform: Matrix) -> Placement:
    """Both matrices are whole: they agree, or the sform is taken, or nobody can tell."""
    sizes = spacing_of(sform), spacing_of(qform)
    angle = float(np.linalg.norm(unit_axes(sform) - unit_axes(qform), axis=0).max())
    apart_mm = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3]))
    if (
        angle < ANGLE
        and np.allclose(*sizes, rtol=RELATIVE_SPACING)
        and apart_mm < ORIGIN_VOXELS * sizes[0].min()
    ):
        return Placement(sform, "sform")
    if np.diag(unit_axes(sform).T @ unit_axes(qform)).min() < SAME_AXIS:
        import nibabel

        words = ["".join(nibabel.aff2axcodes(m)) for m in (sform, qform)]
        raise GeometryError(
            f"{path}: expected one orientation, but its sform says {words[0]} and its qform "
            f"{words[1]} (left and right may be exchanged): {CHOOSE}"
        )
    if not np.allclose(*sizes, rtol=SAME_SIZE):
        raise GeometryError(
            f"{path}: expected one size of voxels, but its sform says {in_mm(sizes[0])} mm and its "
            f"qform {in_mm(sizes[1])} mm: {CHOOSE}"
        )
    turned = float(np.rad2deg(angle))
    note = (
        f"{path}: its sform and qform disagree (origins {apart_mm:.4g} mm apart, axes turned by "
        f"about {turned:.2g} degrees): taken from the sform; --geometry qform takes the other"
    )
    return Placement(sform, "sform", (note,))


def _chosen(path: Path, told: _Told, geometry: str) -> Placement:
    """What the user chose, if the file has it; else the one thing that it has."""
    options = {"sform": told.sform, "qform": told.qform, "pixdim": told.pixdim}
    matrix = options[geometry]
    if matrix is None:
        others = [k for k in ("sform", "qform") if options[k] is not None]
        if not others or "code 0" not in told.missing[geometry]:
            raise GeometryError(
                f"{path}: expected a {geometry} as --geometry asks, but {told.missing[geometry]}"
            )
        return _automatic(path, told)
    if geometry == "sform" and told.sheared:
        raise GeometryError(
            f"{path}: expected orthogonal axes, got a sheared sform matrix: use --geometry qform "
            "or pixdim"
        )
    try:
        doubt = bool(_automatic(path, told).notes)
    except GeometryError:
        doubt = True
    note = f"{path}: taken from the {geometry}, as --geometry says"
    return Placement(matrix, geometry, (note,) if doubt else ())


def _in_mm(path: Path, fields: Any, found: Placement) -> Placement:
    """Turn metres and micrometres into millimetres."""
    unit = int(fields["xyzt_units"]) & 7
    factor = MM_PER_UNIT.get(unit)
    if factor is None:
        return found
    affine = found.affine.copy()
    affine[:3] *= factor
    name = "metres" if factor > 1 else "micrometres"
    note = f"{path}: its header gives lengths in {name}: taken as {factor:g} mm each"
    return Placement(affine, found.source, (*found.notes, note))
