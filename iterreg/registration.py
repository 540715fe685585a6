"""The result of a registration: the transform, and everything needed to trust or repeat it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from iterreg.config import Config
from iterreg.displacement import Transform
from iterreg.geometry import Grid
from iterreg.image import LabelMap
from iterreg.inverse import invert_to_grid
from iterreg.verdict import Status, Verdict


@dataclass(frozen=True)
class LevelHistory:
    """The energy of one pyramid level, step by step.

    Args:
        spacing_zyx_mm: of the level's grid.
        voxels: nodes of the level's grid.
        similarity, overlap, smoothness: weighted energy terms per voxel, before the first step and
            after every accepted one.
        converged: whether the last step hardly lowered the energy; otherwise the steps ran out.
    """

    spacing_zyx_mm: tuple[float, ...]
    voxels: int
    similarity: tuple[float, ...]
    overlap: tuple[float, ...]
    smoothness: tuple[float, ...]
    converged: bool


@dataclass(frozen=True)
class Registration:
    """The result of :func:`iterreg.optimize_pair`.

    Args:
        transform: fixed to moving, on the fixed image's own grid.
        verdict: whether it can be trusted, the reasons why not, and the evidence.
        fixed_labels, moving_labels: the regions that were used, on their images' own grids.
        history: one entry per pyramid level, coarse to fine.
        timings_s: wall seconds per stage, in order.
        config: the resolved configuration.
        start: which start was chosen, and why.
        field_of_view: what was found, per image.
        notes: what the user should know (labels without a partner, and the like).
        device, seed, threads: what it ran with.
        versions: of iterreg, torch, numpy and Python.
        length_scale: mm of the images for one mm of the configuration; 1 but for images that are
            far smaller or larger than the preset is made for.

    Example:
        >>> import iterreg, numpy, torch
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = iterreg.Grid((12, 12, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> texture = torch.from_numpy(numpy.random.default_rng(0).random((1, 12, 12, 12))).float()
        >>> image = iterreg.Image(texture, grid)
        >>> result = iterreg.optimize_pair(image, image, preset="general")
        >>> result.status.is_ok, result.start
        (True, 'identity')
        >>> back, status = result.inverse()
        >>> int(status.max())  # 0 is InverseStatus.OK
        0
        >>> [level.converged for level in result.history]
        [True, True, True]
    """

    transform: Transform
    verdict: Verdict
    fixed_labels: LabelMap
    moving_labels: LabelMap
    history: tuple[LevelHistory, ...]
    timings_s: dict[str, float]
    config: Config
    start: str
    field_of_view: dict[str, str]
    notes: tuple[str, ...]
    device: str
    seed: int
    threads: int
    versions: dict[str, str]
    length_scale: float = 1.0

    @property
    def status(self) -> Status:
        """The verdict in one word."""
        return self.verdict.status

    def inverse(self, moving_grid: Grid | None = None) -> tuple[Transform, Tensor]:
        """Invert the transform region by region.

        Where regions drew apart (a gap) no fixed point maps onto the moving one: such voxels get
        the nearest answer, and their status says so.

        Args:
            moving_grid: grid of the inverse; None takes the moving image's.

        Returns:
            The inverse, moving to fixed, and (*moving shape) int8, the
            :class:`iterreg.inverse.InverseStatus` of each voxel.

        Raises:
            GeometryError: a grid of another rank.
        """
        grid = self.moving_labels.grid if moving_grid is None else moving_grid
        return invert_to_grid(self.transform, grid, self.fixed_labels, self.moving_labels)

    def __repr__(self) -> str:
        seconds = sum(self.timings_s.values())
        regions = ", ".join(self.fixed_labels.title(v) for v in self.fixed_labels.values[:6])
        return (
            f"Registration({self.verdict.headline}; {self.transform.field!r}; "
            f"regions: {regions or 'none'}; {seconds:.1f} s on {self.device})"
        )
