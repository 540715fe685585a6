#!/usr/bin/env bash
# Build the site and check it: warnings are errors, examples run, links lead somewhere.
# Usage: docs/build.sh BIN FOLDER, where BIN holds the programs of an environment with '.[docs]'.
set -euo pipefail
cd "$(dirname "$0")"
"$1"/sphinx-build -q -E -W --keep-going -b html . "$2"
"$1"/sphinx-build -q -W --keep-going -b doctest -D plot_gallery=0 . "$2"-doctest
"$1"/python check_links.py "$2"
