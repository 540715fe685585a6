"""Where the optimisation starts: an affine, the regions that fit it, a search for large motion."""

from __future__ import annotations

from dataclasses import dataclass

from iterreg.config import Config
from iterreg.displacement import Transform
from iterreg.geometry import Matrix
from iterreg.optimize.affine import find_affine
from iterreg.optimize.discrete import search
from iterreg.optimize.field import Field
from iterreg.optimize.mapped import voxels_at
from iterreg.optimize.pair import Pair
from iterreg.optimize.partners import Mismatch, check_partners

AFFINE_SPACING_MM = 8.0
"""Resolution at which the affine is found: twelve numbers need no more, and it reaches further."""

LEAST_AFFINE_VOXELS = 2_000
"""A small image is taken finer: of 100 voxels an affine would fit the noise."""

FINER = 0.85
"""Each try at a finer resolution."""

RIGID_SPACING_MM = 4.0
"""A rigid start is asked for its numbers, such as the shift of a treatment couch. On a chest CT
that was moved by a known shift and turns, 4 mm finds them to 0.3 mm and 0.1 degrees, 8 mm to 0.5 mm
and 0.3 degrees."""


@dataclass(frozen=True)
class StartingPoint:
    """The affine and the field that the first level starts from.

    Args:
        affine_lps: homogeneous, fixed to moving, LPS mm.
        field: the residual displacement before it, at whatever resolution it was found.
        how: where the affine came from, in words.
        pair: at full resolution, without the regions that cannot correspond.
        mismatches: those regions.
    """

    affine_lps: Matrix
    field: Field
    how: str
    pair: Pair
    mismatches: tuple[Mismatch, ...] = ()


def find_start(pair: Pair, config: Config, initial: Transform | None = None) -> StartingPoint:
    """Find the affine, dissolve regions that cannot correspond, then search for large motion.

    Args:
        pair: at full resolution.
        config: what may be estimated, and how far the search reaches.
        initial: the user's transform, on the fixed grid. A field in it replaces affine and search;
            an affine alone starts the affine.
    """
    if initial is not None and bool(initial.field.vox.any()):
        field = Field.of(initial, pair.fixed)
        return StartingPoint(initial.affine_lps, field, "given initial transform", pair)
    coarse_mm = _affine_spacing_mm(pair, config)
    given = None if initial is None else initial.affine_lps
    affine = find_affine(config, pair.at(coarse_mm), given)
    pair, mismatches = check_partners(pair, config, affine.affine_lps)
    if config.start.search_mm == 0:
        field = Field.zero(pair.at(coarse_mm).fixed)
    else:
        field = search(pair, affine.affine_lps, config.start.search_mm)
    return StartingPoint(affine.affine_lps, field, affine.how, pair, mismatches)


def _affine_spacing_mm(pair: Pair, config: Config) -> float:
    """Spacing of the level at which the affine is found."""
    spacing_mm = max(AFFINE_SPACING_MM, config.levels.spacing_mm[0])
    if config.start.affine == "rigid":
        spacing_mm = max(RIGID_SPACING_MM, config.levels.spacing_mm[-1])
    finest_mm = min(spacing_mm, max(config.levels.spacing_mm[-1], pair.fixed.least_spacing_mm))
    while voxels_at(pair, spacing_mm) < LEAST_AFFINE_VOXELS and spacing_mm > finest_mm:
        spacing_mm = max(finest_mm, spacing_mm * FINER)
    return spacing_mm
