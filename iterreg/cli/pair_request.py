"""A pair to register, as the options of a command describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iterreg.cli.origin import provenance_of

if TYPE_CHECKING:
    from iterreg.config import Config
    from iterreg.provenance import Provenance

COMMAND_OPTIONS = (
    "out",
    "settings",
    "segmenter",
    "rigid",
    "preserve_volume",
    "rigid_first",
    "isocentre",
    "fill",
    "field_step_mm",
    "preset",
    "save_jacobian",
    "save_inverse",
    "save_error",
    "no_report",
    "memory_gb",
    "overwrite",
    "quiet",
    "verbose",
)
"""Options of ``pair_options`` that are not arguments of ``optimize_pair``."""


@dataclass(frozen=True)
class PairRequest:
    """A pair to register, as the options describe it.

    Args:
        out: folder for the results.
        preset: a name or a TOML file; None lets the command choose.
        overrides: changes of the preset, by dotted key.
        arguments: the options that are arguments of :func:`iterreg.optimize_pair`, by name; files
            are still paths.
        isocentre: x, y, z in LPS mm, which ``--rigid-first`` gives turns about; None: the centre of
            the fixed image.
        save_jacobian: also write ``jacobian.nii.gz``.
        save_inverse: also write the inverse, on the moving grid.
        save_error: also write ``expected_error_mm.nii.gz``.
        no_report: leave out ``report.html``.
        memory_gb: the most memory to use, in GB; None for all.
        overwrite: replace results that exist.
        quiet, verbose: how much to print.
        also_read: other files that the command reads, by role, for the record.
    """

    out: Path
    preset: str | None
    overrides: Mapping[str, Any]
    arguments: Mapping[str, Any]
    isocentre: tuple[float, ...] | None = None
    save_jacobian: bool = False
    save_inverse: bool = False
    save_error: bool = False
    no_report: bool = False
    memory_gb: float | None = None
    overwrite: bool = False
    quiet: bool = False
    verbose: bool = False
    also_read: Mapping[str, Path | None] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PairRequest:
        """Make a request from the values of ``pair_options``.

        Raises:
            click.UsageError: only one of two options that belong together was given.
        """
        for kind in ("labels", "landmarks"):
            names = f"fixed_{kind}", f"moving_{kind}"
            both_or_neither(*(f"--{n.replace('_', '-')}" for n in names), *map(values.get, names))
        own = {name: values[name] for name in COMMAND_OPTIONS if name in values}
        overrides = dict(own.pop("settings", ()))
        for key in ("segmenter", "fill", "field_step_mm"):
            if (value := own.pop(key, None)) is not None:
                overrides[key] = value
        for key in ("rigid", "preserve_volume"):
            if names := own.pop(key, ()):
                overrides[key] = list(names)
        _let_be_rigid(own.pop("rigid_first", False), own.get("isocentre"), overrides)
        arguments = {name: value for name, value in values.items() if name not in COMMAND_OPTIONS}
        preset = own.pop("preset", None)
        return cls(preset=preset, overrides=overrides, arguments=arguments, **own)

    def config(self, preset: str | None = None) -> Config:
        """Load the preset with all changes.

        Args:
            preset: taken if the user named none.

        Raises:
            ConfigError: unknown preset or key, or a value out of range.
        """
        from iterreg.config import load_config

        name = preset if self.preset is None else self.preset
        assert name is not None
        return load_config(name, self.overrides)

    def provenance(self) -> Provenance:
        """Record the command line and the files, and begin to hash them."""
        return provenance_of({**self.arguments, **self.also_read, "preset": self.preset})


def _let_be_rigid(asked: bool, isocentre: Any, overrides: dict[str, Any]) -> None:
    """Enter ``--rigid-first`` into the overrides."""
    if not asked:
        if isocentre is not None:
            raise click.UsageError("--isocentre goes with --rigid-first")
        return
    if (kind := overrides.get("start.affine", "rigid")) != "rigid":
        raise click.UsageError(f"--rigid-first contradicts --set start.affine={kind}")
    overrides["start.affine"] = "rigid"


def both_or_neither(first: str, second: str, one: Any, two: Any) -> None:
    """Require both of two options or none.

    Raises:
        click.UsageError: exactly one of them was given.
    """
    if (one is None) != (two is None):
        given, missing = (first, second) if two is None else (second, first)
        raise click.UsageError(f"{given} was given without {missing}")
