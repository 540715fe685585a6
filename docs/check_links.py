"""Check that each link inside the built site leads to a file and a place that exist.

Usage: python docs/check_links.py FOLDER
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the places in it that a link can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the attributes that name something."""
        for name, value in attrs:
            if name == "id" and value:
                self.places.add(value)
            if name in ("href", "src") and value:
                self.links.append(value)


def broken_links(folder: Path) -> list[str]:
    """Links that lead nowhere, each with its page."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target in pages and unquote(parts.fragment) in pages[target].places
            if not (there or (target.is_file() and not parts.fragment)):
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return broken


def main() -> int:
    """Print the broken links; the exit code is 1 if there are any."""
    folder = Path(sys.argv[1])
    broken = broken_links(folder)
    pages = len(list(folder.rglob("*.html")))
    print("\n".join(broken) or f"{pages} pages, no broken link")
    return int(bool(broken) or not pages)


if __name__ == "__main__":
    sys.exit(main())
