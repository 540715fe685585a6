"""``iterreg weights``: list, verify and download weights of the Segment Anything variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iterreg.cli.console import Console
from iterreg.cli.failures import HelpfulGroup, debug_option
from iterreg.cli.options import quiet_option
from iterreg.cli.streams import tell
from iterreg.progress import Progress

if TYPE_CHECKING:
    from iterreg.samreg.weights import CachedFile

HEADER = ("variant", "file", "licence", "installed", "tested with real weights")
VERDICTS = {
    "verified": "sha256 matches the published one",
    "unverified": "no published sha256 to compare with",
    "damaged": "DAMAGED",
    "absent": "not installed",
}


@click.group(cls=HelpfulGroup, short_help="List, verify and download Segment Anything weights.")
def weights() -> None:
    """List, verify and download the weights of the Segment Anything variants.

    Weights are kept in the folder ITERREG_WEIGHTS, or in the user's cache folder. Only fetch
    downloads anything.
    """


@weights.command("list")
@debug_option
def list_() -> None:
    """List the variants, and which of their weights are installed."""
    from iterreg.samreg.weights import cache_folder, inspect_cache

    rows = [HEADER]
    for cached in inspect_cache():
        spec, state = cached.spec, cached.state
        installed = {"absent": "no", "unverified": "yes"}.get(state, state)
        rows.append(
            (spec.name, spec.file, spec.licence, installed, "yes" if spec.verified else "no")
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        tell("  ".join(cells).rstrip())
    tell(f"\nfolder: {cache_folder()}\ndownload one: iterreg weights fetch NAME")


@weights.command(short_help="Compare installed weights with the published checksums.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@debug_option
def verify(names: tuple[str, ...]) -> None:
    """Compare installed weights with the published checksums: those named, or all."""
    from iterreg.errors import WeightsError
    from iterreg.samreg.variants import find_variant
    from iterreg.samreg.weights import cache_folder, how_to_get, inspect_cache

    wanted = {find_variant(name).name for name in names}
    cached = [c for c in inspect_cache() if c.sha256 is not None or c.spec.name in wanted]
    chosen = [c for c in cached if not wanted or c.spec.name in wanted]
    if not chosen:
        tell(f"no weights in {cache_folder()}")
    for file in chosen:
        tell(_verdict(file))
    bad = [c for c in chosen if c.state == "damaged"] or [c for c in chosen if c.state == "absent"]
    if bad:
        first = bad[0]
        raise WeightsError(
            f"{first.spec.name}: {first.state}: {first.path}; {how_to_get(first.spec)}"
        )


@weights.command()
@click.argument("name")
@click.option(
    "--url", metavar="URL", help="Link to the file.  [default: the authors' link, if known]"
)
@click.option(
    "--sha256",
    metavar="HEX",
    help="Checksum that the file must have.  [default: the published one, if known]",
)
@quiet_option
@debug_option
def fetch(name: str, url: str | None, sha256: str | None, quiet: bool) -> None:
    """Download a variant's weights into the cache.

    An interrupted download is resumed when you run the command again. The file gets its name only
    when it is complete and its checksum is right. For a variant without a published checksum give
    --sha256.
    """
    from iterreg.samreg import weights as cache
    from iterreg.samreg.variants import find_variant

    spec = find_variant(name)
    console = Console(quiet)
    with console.progress() as report:

        def on_bytes(done: int, total: int | None) -> None:
            fraction = done / total if total else 0.5
            report(Progress("fetch", fraction, f"downloading {spec.file}"))

        path = cache.fetch(spec, url, on_bytes, sha256)
    console.say(f"{path}")


def _verdict(cached: CachedFile) -> str:
    line = f"{cached.spec.name}: {VERDICTS[cached.state]}"
    return line if cached.sha256 is None else f"{line}: {cached.path} ({cached.sha256})"
