"""The result of a registration: the transform, and everything needed to trust or repeat it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.applying import grid_like
from iterreg.atomic import OutputFolder
from iterreg.config import Config
from iterreg.devices import device_or_cpu
from iterreg.displacement import Transform
from iterreg.evaluation import Measures, measure
from iterreg.evaluation.given import evaluate
from iterreg.figures import draw_overlay, save_figure
from iterreg.geometry import Points
from iterreg.image import Image, LabelMap
from iterreg.inverse import Inverse
from iterreg.io import as_label_map
from iterreg.optimize.history import LevelHistory
from iterreg.regions.field_of_view import field_of_view, partial_views
from iterreg.rigid_motion import RigidMotion, is_rigid
from iterreg.tables import load
from iterreg.verdict import Status, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from iterreg.formats.reading import TransformLike
    from iterreg.image.kinds import GridLike, ImageLike, LabelsLike, PointsLike
    from iterreg.regions.label_tables import NamesLike


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of :func:`iterreg.optimize_pair`.

    Args:
        transform: fixed to moving, on the fixed image's own grid.
        verdict: whether it can be trusted, the reasons why not, and the evidence.
        fixed_labels, moving_labels: the regions that were used, on their images' own grids.
        history: one entry per pyramid level, coarse to fine.
        timings_s: wall seconds per stage, in order.
        config: the resolved configuration.
        start: which start was chosen, and why. field_of_view: what was found, per image.
        notes: what the user should know (labels without a partner, and the like).
        device, seed, threads: what it ran with.
        versions: of iterreg, torch, numpy and Python.
        fixed, moving: the pair.
        initial_transform: the user's, if one was given: "before" in measures and pictures.
        landmarks: fixed and moving, that guided the registration, if any were given.
        length_scale: mm of the images for one of the configuration; 1 for images of usual size.
        dissolved: regions that cannot be one anatomy, by name, and why; others took them in.

    Example:
        >>> import iterreg, numpy, torch
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = iterreg.Grid((12, 12, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes)
        >>> texture = torch.from_numpy(numpy.random.default_rng(0).random((1, 12, 12, 12))).float()
        >>> image = iterreg.Image(texture, grid)
        >>> result = iterreg.optimize_pair(image, image, preset="general")
        >>> result.status.is_ok, result.start
        (True, 'identity')
        >>> torch.allclose(result.warp().data, image.data, atol=1e-5)
        True
        >>> result.map_points(iterreg.Points([[4.0, 6.0, 8.0]])).lps.tolist()
        [[4.0, 6.0, 8.0]]
        >>> back = result.inverse()
        >>> int(back.status.max())  # 0 is InverseStatus.OK
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
    fixed: Image
    moving: Image
    initial_transform: Transform | None = None
    landmarks: tuple[Points, Points] | None = None
    length_scale: float = 1.0
    dissolved: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The verdict in one word."""
        return self.verdict.status

    def warp(
        self,
        image: ImageLike | None = None,
        *,
        onto: GridLike | None = None,
        fill: float | None = None,
    ) -> Image:
        """Warp an image of the MOVING space onto the fixed grid, with linear interpolation.

        Args:
            image: any kind that :func:`iterreg.optimize_pair` takes, such as a dose or another
                sequence of the moving scan; None is the moving image itself.
            onto: a grid, or anything that has one, for the result; None takes the fixed grid.
            fill: intensity outside the image; None takes the preset's for the moving image, else
                the image's minimum.

        Raises:
            IterregError: the image cannot be used.
        """
        if image is None:
            image, fill = self.moving, self.config.fill if fill is None else fill
        return self.transform.warp(image, onto=onto, fill=fill)

    def warp_labels(
        self, labels: LabelsLike | None = None, *, onto: GridLike | None = None
    ) -> LabelMap:
        """Warp a label map of the MOVING space onto the fixed grid: the nearest voxel's label.

        Args:
            labels: any kind that :func:`iterreg.optimize_pair` takes; names are kept. Contours
                (RTSTRUCT) are those of the moving image. None is the moving regions.
            onto: as in :meth:`warp`.

        Raises:
            IterregError: the labels cannot be used.
        """
        given = self.moving_labels if labels is None else labels
        given = as_label_map(given, "labels", reference=self.moving.grid)
        return self.transform.warp_labels(given, onto=onto)

    def map_points(self, points: PointsLike) -> Points:
        """Map points of the FIXED image to the moving one; the other way is :meth:`inverse`'s.

        Args:
            points: :class:`iterreg.Points`, LPS mm, or a file.

        Raises:
            IterregError: the points cannot be used.
        """
        return self.transform.map_points(points)

    def inverse(self, moving_grid: GridLike | None = None) -> Inverse:
        """Return the way back, solved region by region when it is needed.

        It takes FIXED images and labels to the moving grid, and MOVING points to the fixed image.
        Where regions drew apart (a gap) no fixed point maps onto the moving one: such voxels get
        the nearest answer, and their status says so.

        Args:
            moving_grid: for the inverse, or anything that has one; None: the moving image's.

        Returns:
            What has ``warp``, ``warp_labels``, ``map_points``, ``transform`` and ``status``.

        Raises:
            GeometryError: a grid of another rank.
        """
        given = self.moving_labels if moving_grid is None else moving_grid
        grid = grid_like(given, "moving_grid")
        return Inverse(self.transform, grid, self.fixed_labels, self.moving_labels)

    def measure(
        self,
        *,
        fixed_labels: LabelsLike | None = None,
        moving_labels: LabelsLike | None = None,
        label_table: NamesLike | None = None,
        fixed_landmarks: PointsLike | None = None,
        moving_landmarks: PointsLike | None = None,
        known_field: TransformLike | None = None,
    ) -> Measures:
        """Measure the result; ``print`` shows the measures as a table.

        Without arguments it measures the regions and landmarks that guided the registration, as
        ``run.json`` has them. Labels and landmarks that did not guide it tell more: give them.

        Args: as in :func:`iterreg.evaluate`.

        Raises:
            IterregError: an input cannot be used.
        """
        given = (fixed_labels, moving_labels, fixed_landmarks, moving_landmarks, known_field)
        if all(value is None for value in given):
            return measure(
                self.transform,
                *(self.fixed_labels, self.moving_labels),
                start=self.initial_transform,
                landmarks=self.landmarks,
                fovs=(field_of_view(self.fixed).mask, field_of_view(self.moving).mask),
                device=device_or_cpu(self.device),
            )
        return evaluate(
            self.transform,
            fixed_labels=fixed_labels,
            moving_labels=moving_labels,
            label_table=label_table,
            fixed_landmarks=fixed_landmarks,
            moving_landmarks=moving_landmarks,
            known_field=known_field,
            start=self.initial_transform,
        )

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        save_jacobian: bool = False,
        save_inverse: bool = False,
        save_error: bool = False,
        report: bool = True,
    ) -> Path:
        """Write everything that the command ``iterreg register`` writes.

        Args:
            folder: for the results; :func:`iterreg.load_run` reads it.
            overwrite: replace results that exist.
            save_jacobian: also write ``jacobian.nii.gz``.
            save_inverse: also write the inverse on the moving grid.
            save_error: also write ``expected_error_mm.nii.gz``, which takes another registration.
            report: also write ``report.html``.

        Returns:
            The folder.

        Raises:
            OutputError: it cannot be written, or holds files and ``overwrite`` is False.
        """
        with OutputFolder(folder, overwrite) as out:
            # Named, not imported: writing stands above this module.
            load("iterreg.outputs:write_run")(
                out,
                self,
                save_jacobian=save_jacobian,
                save_inverse=save_inverse,
                save_error=save_error,
                report=report,
            )
        return Path(folder)

    def rigid_motion(self, isocentre_lps_mm: ArrayLike | None = None) -> RigidMotion | None:
        """Return the affine part as a couch shift, fixed to moving; None if it stretches.

        Args:
            isocentre_lps_mm: x, y(, z), of the turns; None: the centre of the fixed image.

        Raises:
            TransformError: the isocentre is no point of the images' rank.
        """
        centre = self.fixed.grid.centre_lps_mm if isocentre_lps_mm is None else isocentre_lps_mm
        affine = self.transform.affine_lps
        return RigidMotion.of(affine, centre) if is_rigid(affine) else None

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw before, after and the deformed lattice on three planes, as ``overlay.png``.

        Args:
            path: also write the picture there, as PNG.

        Returns:
            Matplotlib's figure, which a notebook shows.

        Raises:
            OutputError: the file cannot be written.
        """
        figure = draw_overlay(
            self.fixed,
            self.moving,
            self.transform,
            fixed_labels=self.fixed_labels,
            start=self.initial_transform,
            fovs=partial_views(self.fixed, self.moving),
        )
        if path is not None:
            save_figure(figure, path)
        return figure

    def _repr_html_(self) -> str:
        """The verdict, the notes and the picture, for notebooks."""
        return str(load("iterreg.report.notebook:registration_html")(self))

    def __repr__(self) -> str:
        seconds = sum(self.timings_s.values())
        regions = ", ".join(self.fixed_labels.title(v) for v in self.fixed_labels.values[:6])
        return (
            f"Registration({self.verdict.headline}; {self.transform.field!r}; "
            f"regions: {regions or 'none'}; {seconds:.1f} s on {self.device})"
        )
