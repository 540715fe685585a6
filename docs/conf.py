"""How Sphinx makes the site: ``sphinx-build -W --keep-going docs FOLDER``. It needs no network."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
os.environ.setdefault("MPLBACKEND", "Agg")

project = "iterreg"
author = "The iterreg developers"
copyright = "The iterreg developers, Apache-2.0"
version = release = metadata.version("iterreg")

extensions = [
    "page_links",
    "plain_texts",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
if "ITERREG_DOCS_INTERSPHINX" in os.environ:  # links to other projects; needs the network
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

exclude_patterns = ["_build", "tutorial", "extensions"]
included_pages = {
    "README.rst": "index",
    "CHANGELOG.rst": "changelog",
    "CONTRIBUTING.rst": "contributing",
    "benchmarks/README.rst": "benchmark-commands",
}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "__init__"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]

# What the examples may use; api.rst says so. They write into a folder of their own.
doctest_global_setup = """
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from iterreg import *

_folder = tempfile.TemporaryDirectory()
os.chdir(_folder.name)
"""
doctest_global_cleanup = f"""
os.chdir({str(HERE)!r})
_folder.cleanup()
"""

sphinx_gallery_conf = {
    "examples_dirs": "tutorial",
    "gallery_dirs": "auto_tutorial",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "show_memory": False,
    "min_reported_time": 0,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "run_stale_examples": True,
    "capture_repr": ("_repr_html_",),
    "copyfile_regex": r"",
}

html_theme = "furo"
html_title = f"iterreg {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
