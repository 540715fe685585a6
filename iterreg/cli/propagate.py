"""``iterreg samreg propagate``: carry labels through matched pairs, without a field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH, overwrite_option, quiet_option, refuse_existing
from iterreg.cli.streams import tell


@click.command("propagate", short_help="Carry labels through matched regions, without a field.")
@click.option("--roi-pairs", type=PATH, required=True, help="roi_pairs.json of iterreg samreg.")
@click.option("--labels", type=PATH, required=True, help="Label map of the moving image.")
@click.option("--out", type=PATH, required=True, help="Label map to write, on the fixed grid.")
@overwrite_option
@quiet_option
@debug_option
def propagate(roi_pairs: Path, labels: Path, out: Path, overwrite: bool, quiet: bool) -> None:
    """Carry labels of the moving image to the fixed image through the matched regions.

    Each fixed region is laid on its partner by its centroid and its extent, and takes the labels
    found there. No field is needed; what lies in no region gets 0.
    """
    from iterreg.io import write_label_map
    from iterreg.samreg.propagating import propagate_labels

    refuse_existing(out, overwrite)
    carried = propagate_labels(labels, roi_pairs)
    write_label_map(carried, out)
    if not quiet:
        for value in carried.values:
            tell(f"{value:>4}  {carried.title(value)}  {int((carried.data == value).sum())} voxels")


class WithPropagate(click.Command):
    """A command with one more below it: ``propagate``."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Hand on to ``propagate`` if that is the first word."""
        if args[:1] == [propagate.name]:
            name = f"{info_name} {propagate.name}"
            return propagate.make_context(name, args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)
