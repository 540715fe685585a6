"""``iterreg phantom``: make a test pair with a known field from one image."""

from __future__ import annotations

from pathlib import Path

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.options import PATH, label_table_option, quiet_option, seed_option
from iterreg.cli.reading_options import reading_options, series_options
from iterreg.cli.setting import Finite

AT_LEAST_ZERO = Finite(min=0)


@click.command(short_help="Make a test pair with a known field from one image.")
@click.option("--image", type=PATH, required=True, help="Image to deform, such as a CT.")
@click.option("--out", type=PATH, required=True, help="Folder for the pair.")
@click.option("--labels", type=PATH, help="Label map of the image; it is deformed too.")
@label_table_option
@click.option(
    "--slide",
    multiple=True,
    metavar="NAME|NUMBER",
    help="Let this label slide along its border, such as lung. Can be repeated; all of them slide "
    "as one region.",
)
@click.option(
    "--amplitude-mm",
    type=AT_LEAST_ZERO,
    help="Longest motion, about.  [default: 10, or a tenth of the image's length if less]",
)
@click.option(
    "--slide-mm",
    type=AT_LEAST_ZERO,
    help="Jump of the motion at the border, about.  [default: half the amplitude]",
)
@click.option(
    "--noise",
    type=Finite(min=0, max=1000),
    default=0.02,
    show_default=True,
    help="Noise in both images: its standard deviation over the range of intensities.",
)
@click.option(
    "--contrast",
    type=click.Choice(["same", "gamma", "inverted"]),
    default="same",
    show_default=True,
    help="Change the fixed image's intensities: by a power curve, or dark for bright.",
)
@reading_options
@series_options("image")
@seed_option
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@quiet_option
@debug_option
def phantom(
    image: Path,
    out: Path,
    labels: Path | None,
    label_table: str | None,
    slide: tuple[str, ...],
    amplitude_mm: float | None,
    slide_mm: float | None,
    noise: float,
    contrast: str,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Make a test pair with a known field from one image, to measure the error on your own data.

    The motion is as of breathing: along the body, largest in its lower half. The output folder gets
    fixed.nii.gz and moving.nii.gz, known_displacement_mm.nii.gz and known_transform.h5 (fixed to
    moving, as those of a run), fixed_landmarks.csv and moving_landmarks.csv, the label maps of both
    if --labels was given, and phantom.json. Register the pair, then compare with iterreg evaluate
    --known-field.
    """
    for option, value in (("--slide", slide), ("--label-table", label_table)):
        if value and labels is None:
            raise click.UsageError(f"{option} was given without --labels")
    from iterreg.atomic import OutputFolder
    from iterreg.cli.console import Console
    from iterreg.io import on_lattice_of, read_image, read_label_map, series_of
    from iterreg.phantom import make_phantom, use_commands, write_phantom

    given = read_image(image, series_of("image"))
    regions = None
    if labels is not None:
        from iterreg.regions.label_files import names_of_run
        from iterreg.regions.label_tables import label_names

        names = label_names(label_table) or names_of_run(labels)
        regions = on_lattice_of(read_label_map(labels, names, given.grid), given)
    with OutputFolder(out, overwrite) as folder:
        made = make_phantom(
            given,
            regions,
            slide=slide,
            amplitude_mm=amplitude_mm,
            slide_mm=slide_mm,
            noise=noise,
            contrast=contrast,
            seed=seed,
        )
        write_phantom(folder, made)
    console = Console(quiet=quiet)
    console.say(f"{out}: motion of up to {made.about['longest_motion_mm']:.1f} mm is known.")
    console.say("Register the pair with the preset that you use, then compare:")
    for command in use_commands(str(out), "general", has_labels=made.labels is not None):
        console.say(f"  {command}")
