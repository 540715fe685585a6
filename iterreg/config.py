"""The configuration: frozen values, read from TOML by name or by path. An unknown key is an error.

Presets are TOML files in ``iterreg/presets``; every value in them carries its source or the
measurement behind it. ``load_config`` resolves a preset and overrides into one :class:`Config`.

Longer than 300 lines because every setting is described where it is defined.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from iterreg.errors import ConfigError
from iterreg.preset_folders import preset_plugins
from iterreg.scanner import ConeBeam
from iterreg.tables import load
from iterreg.texts import TextError, parse_toml

SCHEMA = 1
MOST_SPACING_MM = 1e6
MOST_STEPS = 10_000
AFFINES = ("none", "translation", "rigid", "similarity", "affine")
RENAMED = {"trust_mm": "robust_scale_mm"}
"""Version of the TOML and ``run.json`` layout."""

IN_HOUNSFIELD = ("fill", "similarity.intensity_range")
"""Settings that a preset may give in Hounsfield units."""


def _one_of(*choices: str, default: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def _in_table(reference: str, default: str, more_after: str = "") -> Any:
    """A name in a table, which is loaded when a value is checked.

    ``more_after`` is a letter after which anything may follow the name.

    So nothing above this module is imported before it is needed, and a new row needs no change
    here.
    """
    return field(default=default, metadata={"table": reference, "more_after": more_after})


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Similarity:
    """The voxel-wise term L_v of SegReg's eq. 5."""

    kind: str = _in_table("iterreg.energy.similarity:SIMILARITIES", default="mind")
    weight: float = _number(1.0, 0, 1e6)
    radius_mm: tuple[float, ...] = (4.0,)
    """Half-width of the local window. MIND takes each one as a patch distance with channels of its
    own; NCC takes the first for its statistics; the others take none."""
    changed_at: float = _number(0.0, 0, 1)
    """``mse`` alone: where nearly all of a neighbourhood differs by more than this share of the
    intensity range, tissue has changed, and its differences count less; 0: never."""
    intensity_range: tuple[float, ...] = ()
    """Clip to (low, high) first. If empty: the 1st and 99th percentile of each image."""

    def __post_init__(self) -> None:
        limits, radii = self.intensity_range, self.radius_mm
        if limits and not (len(limits) == 2 and limits[0] < limits[1]):
            raise ConfigError(
                f"similarity.intensity_range: expected [low, high] or nothing, got {list(limits)}"
            )
        if not radii or not all(0.1 <= radius <= 100 for radius in radii):
            raise ConfigError(
                f"similarity.radius_mm: expected distances of 0.1 to 100 mm, got {list(radii)}"
            )


@dataclass(frozen=True)
class Features:
    """The channels that the similarities ``sam`` and ``features`` compare."""

    variant: str = _in_table("iterreg.samreg.variants:VARIANTS", default="mobile_sam")
    """Of ``sam``: the Segment Anything model whose encoder is used."""
    checkpoint: str = ""
    """Of ``sam``: file of its weights; if empty, the one in the cache of weights."""
    axes: tuple[str, ...] = ()
    """Of ``sam``: slices are cut across these of z, y and x; if empty, across the axis along which
    voxels are longest."""
    channels: int = 16
    """Most channels, of all axes together."""

    def __post_init__(self) -> None:
        known = set(self.axes) <= {"z", "y", "x"} and len(set(self.axes)) == len(self.axes)
        if not known:
            raise ConfigError(f"features.axes: expected some of z, y, x, got {list(self.axes)}")
        if not max(1, len(self.axes)) <= self.channels <= 256:
            least = max(1, len(self.axes))
            raise ConfigError(f"features.channels: expected {least} to 256, got {self.channels}")


@dataclass(frozen=True)
class Overlap:
    """The mask-wise term L_m of SegReg's eq. 5."""

    kind: str = _in_table("iterreg.energy.overlap:OVERLAPS", default="boundary")
    weight: float = _number(1.0, 0, 1e6)
    band_mm: float = _number(6.0, 0.1, 1000)
    """Signed distances are clamped to +-band_mm, and sampled in a shell of this width."""
    far_mm: float = _number(0.0, 0, 1000)
    """Tissue deeper in its region than the band may not land in another one: the cost grows up to
    this distance from its own region; 0 leaves it out."""
    where: str = _one_of("everywhere", "visible", default="everywhere")
    """``visible``: match a boundary only where the image shows it. A segmenter has to draw one even
    where there is nothing to see, as across the vessels of a lung's hilum."""


@dataclass(frozen=True)
class Correction:
    """The last step, which brings boundaries together and moves nothing else.

    A boundary drawn by a segmenter is off by up to a voxel. Fitting it harder during the whole
    optimisation would pull the interior along. So it is fitted last, by a small correction that
    dies out away from it.
    """

    weight: float = _number(1.0, 0, 1e6)
    """Weight of a squared mm between boundaries, relative to the squared gradient of the
    correction; 0 leaves the correction out."""
    length_mm: float = _number(4.0, 0.1, 1000)
    """The correction dies out over this length."""
    where: str = _one_of("everywhere", "visible", "given", default="everywhere")
    """``visible``: only where the image shows the boundary. ``given``: everywhere if label maps
    were given, and where the image shows the boundary if a segmenter made them."""
    robust_scale_mm: float = _number(1000.0, 0.01, 1000)
    """Boundaries that disagree by more than this count less and less: the labels are wrong there.
    Set it large if an expert drew the labels."""


@dataclass(frozen=True)
class Smoothness:
    """The region-wise regulariser R of SegReg's eq. 5."""

    kind: str = _one_of("edges", "region-means", default="edges")
    """``edges``: one mean over all edges; ``region-means``: the paper's sum of per-region means."""
    weight: float = _number(1.0, 0, 1e6)
    break_at: float = _number(0.0, 0, 100)
    """Gradient of the displacement, mm per mm, at which an edge gives way in a pair without
    regions, so that tissue may slide where no label says so; 0: never."""
    sliding_weight: float = _number(0.05, 0, 1)
    """w[a, b] of an edge across a sliding interface. It is 1 inside a region and across a glued
    interface."""
    gap_weight: float = _number(1.0, 0, 1)
    """Weight of the normal part of a jump there, which opens a gap or makes tissue overlap."""
    sliding: tuple[tuple[str, str], ...] = ()
    """Pairs of region names that slide along each other; ``*`` stands for any. A label without a
    name slides along everything."""
    free: tuple[tuple[str, str], ...] = ()
    """Pairs that nothing holds together, in the same form."""
    glued: tuple[tuple[str, str], ...] = ()
    """Exceptions from ``sliding`` and ``free``, in the same form."""


@dataclass(frozen=True)
class Landmarks:
    """How strongly given landmark pairs pull."""

    weight: float = _number(1.0, 0, 1e6)
    """Weight of a squared mm between the displacement around a landmark and the one that it asks
    for: ten times what image and regulariser hold a voxel with."""
    radius_mm: float = _number(4.0, 0.1, 100)
    """A landmark pulls its neighbourhood with a Gaussian of this standard deviation."""


@dataclass(frozen=True)
class Start:
    """How the registration starts."""

    affine: str = _one_of(*AFFINES, default="affine")
    """What may be estimated at most: less if the images do not support it."""
    unguided: str = _one_of("same", *AFFINES, default="same")
    """The same without regions; ``same`` keeps ``affine``. In a small crop an affine fits what
    differs between two people."""
    middle: float = _number(1.0, 0.3, 1)
    """Without regions the affine is refined once more in an ellipsoid of this share of the fixed
    image's sides; 1: not. The middle of a crop holds what it was cut for."""
    search_mm: float = _number(24.0, 0, 500)
    """Reach of the discrete search for large motion; 0 leaves the search out."""


@dataclass(frozen=True)
class Levels:
    """The pyramid."""

    spacing_mm: tuple[float, ...] = (8.0, 4.0, 2.0)
    """Grid spacing of each level, coarse to fine. An axis that is coarser stays as it is."""
    steps: tuple[int, ...] = (20, 15, 10)
    """Most steps of each level."""
    tolerance: float = _number(1e-3, 0, 1)
    """A level ends when a step lowers the energy by less than this share of it."""


SURE_VOXELS = 1.5
"""No part of an image is called off by less: a right pair of 8 mm voxels has 9 mm."""


@dataclass(frozen=True)
class Limits:
    """Beyond these a result is not ok: see :mod:`iterreg.verdict`."""

    least_ncc: float = _number(-1.0, -1, 1)
    """Correlation of fixed and warped image; it asks for one contrast."""
    least_lncc: float = _number(0.0, 0, 1)
    """Mean squared correlation in local windows with contrast."""
    least_nmi: float = _number(0.0, 0, 1)
    """Normalised mutual information."""
    most_inconsistency_mm: float = _number(5.0, 0, 1e6)
    """Median distance between a point and where it ends, there and back."""
    most_inconsistency_p95_mm: float = _number(1e6, 0, 1e6)
    """95th percentile of it, where this is far above the median: a part of the image is off."""
    most_affine_volume: float = _number(2.0, 1, 1e6)
    """Factor by which the affine part of the map may change the volume."""
    most_affine_stretch: float = _number(1.6, 1, 1e6)
    """Factor by which it may stretch or compress an axis."""
    most_affine_shear_deg: float = _number(25.0, 0, 90)
    """Most change of a right angle."""
    least_common_view: float = _number(0.25, 0, 1)
    """Share of the fixed field of view that lands in the moving one."""
    least_region_dice: float = _number(0.4, 0, 1)
    """Dice of each region inside the common view."""
    most_dice_loss: float = _number(0.02, 0, 1)
    """By so much the Dice of a region may be lower than without the registration."""
    most_lncc_loss: float = _number(0.03, 0, 1)
    """By so much the images may correlate less in local windows than without the registration."""
    most_landmark_error_mm: float = _number(5.0, 0, 1e6)
    """Mean distance of the landmarks that guided the registration."""
    most_volume_change_percent: float = _number(1.0, 0, 1e6)
    """Change of the volume of a region in ``preserve_volume``."""

    def for_voxels(self, spacing_mm: Iterable[float]) -> Limits:
        """The same for images of some spacings: in large voxels a part of an image is less sure.

        Args:
            spacing_mm: of all axes of both images.

        Example:
            >>> limits = Limits(most_inconsistency_p95_mm=7.0)
            >>> limits.for_voxels((1.0, 8.0)).most_inconsistency_p95_mm
            12.0
        """
        least_mm = SURE_VOXELS * max(spacing_mm)
        return dataclasses.replace(
            self, most_inconsistency_p95_mm=max(self.most_inconsistency_p95_mm, least_mm)
        )


@dataclass(frozen=True)
class Config:
    """All settings that decide a result, apart from the images.

    Args:
        name: of the preset it came from.
        segmenter: finds the regions if no label maps are given; some take more after a colon, such
            as ``nnunet:FOLDER``.
        fill: intensity outside the moving image; None takes the image's minimum.
        hounsfield: which of ``IN_HOUNSFIELD`` are in Hounsfield units. They follow a CT that is
            stored with an offset; the others hold as they are, in the image's own numbers.
        field_step_mm: written displacements are multiples of the largest power of two that is not
            above it, which makes the files half as large; 0 keeps float32 as it is.
        rigid: names of regions that must not bend, ``*`` standing for any; each region is one body.
        preserve_volume: names of regions whose volume must not change, in the same form.
        beside: a second similarity, added to the first; None leaves it out.
        features: what the similarities ``sam`` and ``features`` compare.
        unguided: the similarity used if there are no regions; None keeps ``similarity``. Regions
            carry a motion that the images must then carry alone.
        fixed_scanner, moving_scanner: the cone beam that an image comes from, if its geometry is
            known; None finds the image's field of view in its voxels.
        verdict: the limits of a result that is ok.
        verdict_guided: the limits if label maps or ROI pairs were given; None keeps ``verdict``.

    Example:
        >>> Config().similarity.kind
        'mind'
    """

    name: str = "custom"
    segmenter: str = _in_table(
        "iterreg.regions.segmenters:SEGMENTERS", default="none", more_after=":"
    )
    fill: float | None = None
    hounsfield: tuple[str, ...] = ()
    field_step_mm: float = _number(0.0, 0, 1)
    rigid: tuple[str, ...] = ()
    preserve_volume: tuple[str, ...] = ()
    similarity: Similarity = Similarity()
    beside: Similarity | None = None
    features: Features = Features()
    unguided: Similarity | None = None
    overlap: Overlap = Overlap()
    correction: Correction = Correction()
    smoothness: Smoothness = Smoothness()
    landmarks: Landmarks = Landmarks()
    start: Start = Start()
    levels: Levels = Levels()
    fixed_scanner: ConeBeam | None = None
    moving_scanner: ConeBeam | None = None
    verdict: Limits = Limits()
    verdict_guided: Limits | None = None

    def __post_init__(self) -> None:
        if self.fill is not None and not math.isfinite(self.fill):
            raise ConfigError(f"fill: expected a finite number, got {self.fill}")
        if not set(self.hounsfield) <= set(IN_HOUNSFIELD):
            raise ConfigError(
                f"hounsfield: expected some of {', '.join(IN_HOUNSFIELD)}, "
                f"got {list(self.hounsfield)}"
            )
        if not all(0 < spacing <= MOST_SPACING_MM for spacing in self.levels.spacing_mm):
            raise ConfigError(
                f"levels.spacing_mm: expected 0 to {MOST_SPACING_MM:g}, "
                f"got {list(self.levels.spacing_mm)}"
            )
        if not all(0 <= steps <= MOST_STEPS for steps in self.levels.steps):
            raise ConfigError(
                f"levels.steps: expected 0 to {MOST_STEPS}, got {list(self.levels.steps)}"
            )
        if len(self.levels.spacing_mm) != len(self.levels.steps) or not self.levels.steps:
            raise ConfigError(
                f"levels: expected as many steps as spacing_mm, got {len(self.levels.steps)} "
                f"and {len(self.levels.spacing_mm)}"
            )

    @property
    def similarities(self) -> tuple[Similarity, ...]:
        """The terms that compare the images."""
        return (self.similarity,) if self.beside is None else (self.similarity, self.beside)

    def resolve(self, *, has_regions: bool, labels_given: bool, rois_given: bool = False) -> Config:
        """The configuration for a pair of which it is known where its regions come from.

        Args:
            has_regions: whether the images have regions.
            labels_given: whether they come from label maps that the user gave.
            rois_given: whether ROI pairs were given.
        """
        where = self.correction.where
        if where == "given":
            where = "everywhere" if labels_given else "visible"
        guided = labels_given or rois_given
        start = self.start
        if start.unguided != "same" and not has_regions:
            start = dataclasses.replace(start, affine=start.unguided)
        return dataclasses.replace(
            self,
            similarity=self.similarity if has_regions else self.unguided or self.similarity,
            unguided=None,
            start=dataclasses.replace(start, unguided="same"),
            verdict=self.verdict_guided if guided and self.verdict_guided else self.verdict,
            verdict_guided=None,
            correction=dataclasses.replace(self.correction, where=where),
        )


def preset_names() -> list[str]:
    """Names of the presets that come with iterreg, and of those that plug-ins add, sorted.

    Example:
        >>> preset_names()[:3]
        ['abdomen', 'brain', 'cardiac']
    """
    own = own_presets()
    return sorted([*own, *preset_plugins(own)])


def own_presets() -> list[str]:
    """Names of the presets that come with iterreg."""
    folder = resources.files("iterreg") / "presets"
    files = (p.name for p in folder.iterdir())
    return [name.removesuffix(".toml") for name in files if name.endswith(".toml")]


def preset_text(name: str) -> str | None:
    """The TOML of a preset by name; None if there is none of that name.

    Raises:
        PluginError: a plug-in's preset cannot be read.
    """
    own = own_presets()
    if name in own:
        return (resources.files("iterreg") / "presets" / f"{name}.toml").read_text("utf-8")
    plugin = preset_plugins(own).get(name)
    return None if plugin is None else str(plugin.loaded())


def load_config(
    preset: str | Path | Config | Mapping[str, Any] = "thorax",
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Resolve a preset and overrides.

    Args:
        preset: a preset's name, the path of a TOML file, a ready configuration, or tables as in
            TOML and ``run.json``.
        overrides: dotted keys, such as ``{"smoothness.weight": 0.5}``. An override of
            ``similarity`` or ``start.affine`` also holds for images without regions: ``unguided``
            is dropped. One of a setting in Hounsfield units is in the image's own numbers.

    Returns:
        The resolved configuration.

    Raises:
        ConfigError: unknown preset, unreadable TOML, another schema, unknown key, wrong type,
            value out of range.

    Example:
        >>> load_config("thorax", {"smoothness.weight": 0.5}).smoothness.weight
        0.5
    """
    if isinstance(preset, Config):
        tables = config_to_dict(preset)
        tables.pop("schema")
        source = preset.name
    elif isinstance(preset, Mapping):
        tables, source = _checked_schema(dict(preset), "tables"), "tables"
    elif isinstance(preset, str | Path):
        tables, source = _read_preset(preset)
    else:
        raise TypeError(
            f"preset: expected a name, a path or an iterreg.Config, got {type(preset).__name__}"
        )
    if not isinstance(overrides, Mapping | None):
        raise TypeError(f"overrides: expected a dict, got {type(overrides).__name__}")
    for dotted, value in (overrides or {}).items():
        *path, key = dotted.split(".")
        if path == ["similarity"]:
            tables.pop("unguided", None)
        if dotted == "start.affine":
            tables.setdefault("start", {}).pop("unguided", None)
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"override {dotted}: {part} is a value, not a table")
        table[key] = value
        if dotted != "hounsfield" and isinstance(tables.get("hounsfield"), list | tuple):
            tables["hounsfield"] = [
                setting
                for setting in tables["hounsfield"]
                if not f"{setting}.".startswith(f"{dotted}.")
            ]
    tables.setdefault("name", Path(source).stem)
    config: Config = _build(Config, tables, source, "")
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain tables, as in TOML and ``run.json``."""
    return {"schema": SCHEMA} | dataclasses.asdict(config)


def _read_preset(preset: str | Path) -> tuple[dict[str, Any], str]:
    text, source = _preset_text(preset)
    try:
        tables = parse_toml(text)
    except TextError as error:
        raise ConfigError(f"preset {preset}: not valid TOML: {error}") from error
    return _checked_schema(tables, str(preset)), source


def _checked_schema(tables: dict[str, Any], source: str) -> dict[str, Any]:
    """The tables without ``schema``, which has to be right."""
    schema = tables.pop("schema", None)
    if schema != SCHEMA:
        raise ConfigError(f"preset {source}: expected schema = {SCHEMA}, got {schema}")
    return tables


def _preset_text(preset: str | Path) -> tuple[str, str]:
    if isinstance(preset, str) and (text := preset_text(preset)) is not None:
        return text, preset
    path = Path(preset)
    if path.suffix != ".toml":
        known = ", ".join(preset_names())
        raise ConfigError(f"preset {preset}: expected one of {known}, or a .toml file")
    try:
        return path.read_text(encoding="utf-8"), str(preset)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset {preset}: cannot be read: {error}") from error


def _build(kind: type, table: Mapping[str, Any], source: str, prefix: str) -> Any:
    """A frozen dataclass from a table, every key and value checked."""
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for key, value in table.items():
        where = f"preset {source}: {prefix}{key}"
        if key not in fields:
            if key in RENAMED:
                raise ConfigError(f"{where}: renamed to {RENAMED[key]}")
            known = ", ".join(sorted(fields))
            raise ConfigError(f"{where}: unknown key; expected one of {known}")
        inner = [k for k in (hints[key], *get_args(hints[key])) if dataclasses.is_dataclass(k)]
        if inner and value is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: expected a table, got {value!r}")
            values[key] = _build(cast(type, inner[0]), value, source, f"{key}.")
        else:
            values[key] = _checked(value, hints[key], fields[key].metadata, where)
    missing = [f.name for f in fields.values() if f.default is MISSING and f.name not in values]
    if missing:
        raise ConfigError(f"preset {source}: {prefix[:-1]}: expected also {', '.join(missing)}")
    return kind(**values)


def _checked(value: Any, hint: Any, metadata: Mapping[str, Any], where: str) -> Any:
    value = _typed(value, hint, where)
    choices = load(metadata["table"]) if "table" in metadata else metadata.get("choices")
    name = value
    if isinstance(value, str) and (mark := metadata.get("more_after")):
        name = value.partition(mark)[0]
    if choices is not None and name not in choices:
        raise ConfigError(f"{where}: expected one of {', '.join(choices)}, got {value!r}")
    if "range" in metadata:
        low, high = metadata["range"]
        if not low <= value <= high:
            raise ConfigError(f"{where}: expected {low:g} to {high:g}, got {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{where}: expected finite numbers, got {value!r}")
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as the type of its field: numbers widen to float, lists become tuples.

    Numbers and arrays of NumPy are taken as Python's.
    """
    if callable(value):
        raise ConfigError(
            f"{where}: expected a value, got a function: give it a name with "
            "iterreg.register_similarity or iterreg.register_segmenter, and choose that"
        )
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is not None and get_origin(hint) is not tuple:
        hint = next((kind for kind in get_args(hint) if get_origin(kind) is tuple), hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        kinds = get_args(hint)
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise ConfigError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(_typed(v, kinds[0], where) for v in value)
    options = get_args(hint) or (hint,)
    if value is None and type(None) in options:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and float in options:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, options):
        names = " or ".join(t.__name__ for t in options if t is not type(None))
        raise ConfigError(f"{where}: expected {names}, got {value!r}")
    return value
