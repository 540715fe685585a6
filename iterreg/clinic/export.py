"""Hand on a result: the DICOM objects that a clinic's systems read."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iterreg.atomic import OutputFolder, write_text
from iterreg.clinic.dose import dose_object, read_dose
from iterreg.clinic.dvh import Histogram, dose_volume
from iterreg.clinic.objects import Series, save
from iterreg.clinic.registration import registration_object
from iterreg.clinic.series import warped_series
from iterreg.clinic.structures import carried_structures, structure_set
from iterreg.displacement import Transform, resample_transform, warp_image
from iterreg.errors import ImageContentError, ImageReadError
from iterreg.geometry import Grid
from iterreg.image import Image, Mask
from iterreg.io.dicom import list_volumes, pick
from iterreg.io.dicom.files import read_header
from iterreg.io.dicom.structures import read_structures
from iterreg.report.source import Source, read_folder
from iterreg.report.words import table

BOUND = -1
"""Channel of the expected error that makes the band: the 90 % bound."""


@dataclass(frozen=True)
class Wanted:
    """What to hand on beside the registration object.

    Args:
        series: the warped image.
        structures: an RTSTRUCT of the moving image; None for none.
        patterns: of the names of its structures; none takes all.
        dose: an RTDOSE of the moving image; None for none.
        error_mm: radius of the band of the histograms; None takes the expected error of the result
            if it is there, else 0.
    """

    series: bool = True
    structures: Path | None = None
    patterns: Sequence[str] = ()
    dose: Path | None = None
    error_mm: float | None = None


def export(
    result: Path,
    folder: OutputFolder,
    wanted: Wanted,
    *,
    fixed: Path | None = None,
    moving: Path | None = None,
    series: Mapping[str, str | None] | None = None,
) -> list[str]:
    """Write the DICOM objects of a result.

    Args:
        result: folder of a result whose images were DICOM series.
        folder: entered; its files appear when it is left.
        wanted: what to write.
        fixed, moving: the DICOM folders; None takes those that ``run.json`` names.
        series: of those folders, for ``fixed`` and ``moving``.

    Returns:
        One line for each object that was written.

    Raises:
        ImageReadError: no result, or its images are not found or no DICOM.
        IterregError: a file cannot be read, or does not fit.
    """
    source = read_folder(result, fixed, moving)
    if source.images is None:
        raise ImageReadError(f"{result}: {' '.join(source.notes)}")
    both = {side: _series(source, side, given, series) for side, given in _given(fixed, moving)}
    moving_grid = source.images[1].grid
    transform, key = source.transform, _key(source, both)
    made = registration_object(transform, moving_grid, both["fixed"], both["moving"], key)
    save(made, folder.path("registration.dcm"))
    told = ["registration.dcm: Deformable Spatial Registration, fixed to moving"]
    if wanted.series:
        told.append(_write_series(source, both, folder, key))
    if wanted.structures is not None:
        told += _write_structures(source, both, folder, wanted, key)
    return told


def _given(fixed: Path | None, moving: Path | None) -> Iterator[tuple[str, Path | None]]:
    yield "fixed", fixed
    yield "moving", moving


def _series(
    source: Source, side: str, given: Path | None, wanted: Mapping[str, str | None] | None
) -> Series:
    known = table(source.tables, side)
    place = Path(str(known.get("file"))) if given is None else given
    chosen = (wanted or {}).get(side) or known.get("series")
    try:
        volume = pick(place, list_volumes(place), None if chosen is None else str(chosen))
    except ImageReadError as error:
        raise ImageReadError(
            f"{place}: {side}: expected the DICOM series that the result was made from: {error}"
        ) from error
    return Series.of(volume, side)


def _key(source: Source, both: Mapping[str, Series]) -> str:
    digest = hashlib.sha256(source.transform.field.vox.numpy().tobytes())
    digest.update(source.transform.affine_lps.tobytes())
    names = [str(both[side].header.SeriesInstanceUID) for side in ("fixed", "moving")]
    return "/".join([*names, digest.hexdigest()])


def _write_series(
    source: Source, both: Mapping[str, Series], folder: OutputFolder, key: str
) -> str:
    assert source.images is not None
    moving = source.images[1]
    fill = table(source.tables, "config").get("fill")
    warped = warp_image(
        moving, source.transform, float(moving.data.min()) if fill is None else float(fill)
    )
    slices = warped_series(warped, both["fixed"], both["moving"], f"{key}/warped")
    number = 0
    for number, made in enumerate(slices, 1):
        save(made, folder.path(f"warped/{number:04d}.dcm"))
    return f"warped/: {number} slices of the warped image"


def _write_structures(
    source: Source, both: Mapping[str, Series], folder: OutputFolder, wanted: Wanted, key: str
) -> list[str]:
    assert source.images is not None and wanted.structures is not None
    moving_grid = source.images[1].grid
    path, patterns = wanted.structures, wanted.patterns
    shares = carried_structures(path, source.transform, moving_grid, patterns)
    made = structure_set(shares, both["fixed"], f"{key}/structures")
    save(made, folder.path("structures.dcm"))
    told = [f"structures.dcm: {len(shares)} structures ({', '.join(list(shares)[:8])})"]
    if wanted.dose is None:
        return told
    dose = read_dose(wanted.dose)
    warped = warp_image(dose, source.transform, 0.0)
    save(
        dose_object(warped, both["fixed"], read_header(wanted.dose), f"{key}/dose"),
        folder.path("dose.dcm"),
    )
    told.append("dose.dcm: the warped dose")
    planned = _planned(path, dose, moving_grid, patterns)
    found = list(_histograms(source, warped, shares, wanted.error_mm))
    _write_histograms(folder, planned, found)
    return [*told, f"dvh.csv, dvh_curves.csv, dvh.png: {len(found)} structures"]


def _planned(path: Path, dose: Image, grid: Grid, patterns: Sequence[str]) -> list[Histogram]:
    """The histograms of the structures and the dose as they were drawn."""
    from iterreg.displacement import DisplacementField

    there = resample_transform(Transform(np.eye(4), DisplacementField.zero(grid)), grid)
    on_moving = warp_image(dose, there, 0.0)
    segments, _ = read_structures(path, grid, patterns)
    return [dose_volume(s.name, on_moving, _share(s.mask, grid)) for s in segments]


def _share(mask: Mask, grid: Grid) -> Image:
    return Image((mask.data != 0).float()[None], grid)


def _histograms(
    source: Source, dose: Image, shares: Mapping[str, Image], error_mm: float | None
) -> Iterator[Histogram]:
    """The histograms on the fixed image, each with the band of its own expected error."""
    expected = source.expected_error
    for name, share in shares.items():
        inside = share.data[0] >= 0.5
        radius = error_mm
        if radius is None:
            known = None if expected is None else expected.data[BOUND][inside]
            known = None if known is None else known[known.isfinite()]
            radius = 0.0 if known is None or not len(known) else float(known.median())
        try:
            yield dose_volume(name, dose, share, radius)
        except ImageContentError:  # nothing of it lies in the fixed image
            continue


def _write_histograms(
    folder: OutputFolder, planned: Sequence[Histogram], found: Sequence[Histogram]
) -> None:
    rows = [{"image": "moving", **h.figures()} for h in planned]
    rows += [{"image": "fixed", **h.figures()} for h in found]
    if not rows:
        return
    write_text(_csv(rows), folder.path("dvh.csv"))
    curves = [
        {"structure": h.name, "dose_gy": d, "share": s, "low": low, "high": high}
        for h in found
        for d, s, low, high in zip(h.dose_gy, h.share, h.low, h.high, strict=True)
    ]
    if curves:
        write_text(_csv(curves), folder.path("dvh_curves.csv"))
        _draw(planned, found, folder.path("dvh.png"))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def _draw(planned: Sequence[Histogram], found: Sequence[Histogram], path: Path) -> None:
    """Solid: on the fixed image, with its band. Dotted: as planned."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    before = {h.name: h for h in planned}
    for number, drawn in enumerate(found):
        colour = f"C{number % 10}"
        axes.plot(drawn.dose_gy, 100 * drawn.share, color=colour, label=drawn.name)
        axes.fill_between(
            drawn.dose_gy, 100 * drawn.low, 100 * drawn.high, color=colour, alpha=0.15, linewidth=0
        )
        if (old := before.get(drawn.name)) is not None:
            axes.plot(old.dose_gy, 100 * old.share, color=colour, linestyle=":")
    axes.set_xlabel("dose, Gy")
    axes.set_ylabel("volume that gets at least this dose, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
