"""``iterreg merge-labels``: merge many structures into a few regions, by name."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH, overwrite_option, quiet_option, refuse_existing
from iterreg.cli.reading_options import reading_options
from iterreg.cli.streams import tell


@click.command("merge-labels", short_help="Merge a label map's structures by name.")
@click.option("--labels", type=PATH, required=True, help="Label map to merge.")
@click.option(
    "--label-table",
    required=True,
    metavar="NAME|FILE",
    help="Names of its numbers, such as totalsegmentator-v2.",
)
@click.option(
    "--extra",
    nargs=2,
    type=(PATH, str),
    multiple=True,
    metavar="FILE NAME|FILE",
    help="Another label map in the same space, and its table. Can be repeated.",
)
@click.option(
    "--to",
    "target",
    default="thorax13",
    show_default=True,
    metavar="NAME|FILE",
    help="Table of the classes to merge into.",
)
@click.option("--out", type=PATH, required=True, help="Merged label map to write.")
@reading_options
@overwrite_option
@quiet_option
@debug_option
def merge_labels(
    labels: Path,
    label_table: str,
    extra: tuple[tuple[Path, str], ...],
    target: str,
    out: Path,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Merge the structures of a label map into the classes of another table, by name.

    By default TotalSegmentator's 117 structures become the 13 classes of the thorax. Its main task
    has no pulmonary artery: add the label map of its task heartchambers_highres with --extra, or
    that class stays empty. Then register with the merged label maps and --label-table thorax13.
    """
    from iterreg.io import on_lattice_of, read_label_map, write_label_map
    from iterreg.regions.merge_labels import merge_labels as merge

    refuse_existing(out, overwrite)
    own = read_label_map(labels)
    more = [(on_lattice_of(read_label_map(path), own), table) for path, table in extra]
    merged = merge(own, label_table, target, more)
    write_label_map(merged.labels, out)
    if not quiet:
        for value in merged.labels.values:
            tell(f"{value:>4}  {merged.labels.title(value)}")
        for note in merged.notes:
            tell(f"note: {note}")
