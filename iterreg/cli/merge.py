"""``iterreg merge-labels``: many structures into a few regions, by name."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH


@click.command("merge-labels", short_help="Merge a label map's structures by name.")
@click.option("--labels", type=PATH, required=True, help="Label map to merge.")
@click.option(
    "--label-table",
    required=True,
    metavar="NAME|FILE",
    help="What its numbers mean, such as totalsegmentator-v2.",
)
@click.option(
    "--extra",
    nargs=2,
    type=(PATH, str),
    multiple=True,
    metavar="FILE NAME|FILE",
    help="A further label map of the same space and its table; may be repeated.",
)
@click.option(
    "--to",
    "target",
    default="thorax13",
    show_default=True,
    metavar="NAME|FILE",
    help="The table of classes to merge into.",
)
@click.option("--out", type=PATH, required=True, help="Where to write the merged label map.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
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
    """Merge a label map's structures into the classes of another table, by name, never by number.

    TotalSegmentator's 117 structures become the 13 of the thorax. Its main task has no pulmonary
    artery: give the map of its task heartchambers_highres with --extra, or the class stays empty.
    Then register with the merged maps and --label-table thorax13.
    """
    from iterreg.errors import OutputError
    from iterreg.io import read_label_map, write_label_map
    from iterreg.regions.merge_labels import merge_labels as merge

    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    more = [(read_label_map(path), table) for path, table in extra]
    merged = merge(read_label_map(labels), label_table, target, more)
    write_label_map(merged.labels, out)
    if not quiet:
        for value in merged.labels.values:
            click.echo(f"{value:>4}  {merged.labels.title(value)}")
        for note in merged.notes:
            click.echo(f"note: {note}")
