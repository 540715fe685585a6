"""The command ``iterreg``: thin, it parses, calls and prints.

Nothing here imports torch at the top: ``iterreg --help`` answers at once. Each command imports
what it needs when it runs.
"""

from iterreg.cli.main import iterreg, main

__all__ = ["iterreg", "main"]
