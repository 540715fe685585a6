"""The command ``iterreg``, which parses options, calls the package, and prints.

No module here imports torch at the top, so that ``iterreg --help`` answers at once; each command
imports what it needs when it runs.
"""

from iterreg.cli.main import iterreg, main

__all__ = ["iterreg", "main"]
