"""``iterreg weights``: the weights of the Segment Anything variants on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iterreg.cli.console import Console
from iterreg.cli.failures import debug_option

if TYPE_CHECKING:
    from iterreg.samreg.weights import CachedFile

HEADER = ("variant", "file", "licence", "here", "tested with real weights")
VERDICTS = {
    "verified": "sha256 as published",
    "unverified": "no sha256 is published to compare with",
    "damaged": "DAMAGED",
    "absent": "not here",
}


@click.group()
def weights() -> None:
    """List, verify and fetch the weights of the Segment Anything variants.

    They are kept in the folder that ITERREG_WEIGHTS names, or in the platform's folder for caches.
    Nothing is downloaded but by fetch.
    """


@weights.command("list")
@debug_option
def list_() -> None:
    """List the variants, and which of their weights are here."""
    from iterreg.samreg.weights import cache_folder, inspect_cache

    rows = [HEADER]
    for cached in inspect_cache():
        spec, state = cached.spec, cached.state
        here = {"absent": "no", "unverified": "yes"}.get(state, state)
        rows.append((spec.name, spec.file, spec.licence, here, "yes" if spec.verified else "no"))
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    click.echo(f"\nin {cache_folder()}\nget one: iterreg weights fetch NAME")


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@debug_option
def verify(names: tuple[str, ...]) -> None:
    """Compare what is here with the published checksums: of the variants named, or of all."""
    from iterreg.errors import WeightsError
    from iterreg.samreg.variants import find_variant
    from iterreg.samreg.weights import cache_folder, how_to_get, inspect_cache

    wanted = {find_variant(name).name for name in names}
    cached = [c for c in inspect_cache() if c.sha256 is not None or c.spec.name in wanted]
    shown = [c for c in cached if not wanted or c.spec.name in wanted]
    if not shown:
        click.echo(f"no weights in {cache_folder()}")
    for one in shown:
        click.echo(_verdict(one))
    bad = [c for c in shown if c.state == "damaged"] or [c for c in shown if c.state == "absent"]
    if bad:
        first = bad[0]
        raise WeightsError(
            f"{first.spec.name}: {first.state}: {first.path}; {how_to_get(first.spec)}"
        )


@weights.command()
@click.argument("name")
@click.option("--url", metavar="URL", help="Link to the file.  [default: the authors', if known]")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def fetch(name: str, url: str | None, quiet: bool) -> None:
    """Download a variant's weights into the cache.

    An interrupted download goes on where it stopped. The file appears under its name only when it
    is whole and its checksum right.
    """
    from iterreg.samreg import weights as cache
    from iterreg.samreg.variants import find_variant

    spec = find_variant(name)
    console = Console(quiet)
    with console.progress() as report:

        def show(done: int, total: int | None) -> None:
            report.stage(f"fetching {spec.file}", done / total if total else 0.5)

        path = cache.fetch(spec, url, show)
    console.say(f"{path}")


def _verdict(cached: CachedFile) -> str:
    line = f"{cached.spec.name}: {VERDICTS[cached.state]}"
    return line if cached.sha256 is None else f"{line}: {cached.path} ({cached.sha256})"
