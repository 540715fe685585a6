"""Links between pages as plain reStructuredText writes them: `` `text <page.rst>`_ ``.

They work where the files are read as they are, on a code host or in an editor. In the site this
makes them links to its pages, and complains about one that leads nowhere. Links to other files of
the project become plain text, since the site does not hold them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

WEB = re.compile(r"[a-z]+:|#")
_log = logging.getLogger(__name__)


class PageLinks(SphinxTransform):
    """Turns relative links into references to pages."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Go through the links of one page."""
        project = Path(self.app.srcdir).parent
        for link in list(self.document.findall(nodes.reference)):
            target = link.get("refuri", "")
            if not target or WEB.match(target):
                continue
            file = self._file(link, target.split("#")[0])
            if not file.exists():
                _log.warning("link to %s, which does not exist", target, location=link)
            page = self._page(file.relative_to(project).as_posix())
            link.replace_self(nodes.inline("", link.astext()) if page is None else to(page, link))

    def _file(self, link: nodes.reference, target: str) -> Path:
        """The file that a link names, from the file that it stands in."""
        parent = link.parent
        while parent is not None and not parent.source:
            parent = parent.parent
        source = Path((parent.source if parent else "") or self.document["source"])
        return Path(os.path.abspath(source.parent / target))

    def _page(self, file: str) -> str | None:
        """The page of the site that shows a file of the project."""
        included: dict[str, str] = self.config.included_pages
        own = file.removeprefix("docs/").removesuffix(".rst")
        page = included.get(file, own if file.startswith("docs/") else None)
        return page if page in self.env.found_docs else None


def to(page: str, link: nodes.reference) -> pending_xref:
    """A reference to a page, with the text of a link."""
    reference = pending_xref(
        "", refdomain="std", reftype="doc", refexplicit=True, reftarget=f"/{page}", refwarn=True
    )
    reference += nodes.inline("", "", *[child.deepcopy() for child in link.children])
    return reference


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx about it."""
    app.add_config_value("included_pages", {}, "env")
    app.add_transform(PageLinks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
