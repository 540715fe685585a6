"""``iterreg plugins``: what other packages add, and whether it can be loaded."""

from __future__ import annotations

import click

from iterreg.cli.failures import debug_option
from iterreg.cli.streams import tell


@click.command(short_help="List the plug-ins that are installed.")
@debug_option
def plugins() -> None:
    """List the similarities, segmenters, transform formats and presets that other packages add.

    Each is loaded, to tell whether it can be. A plug-in that fails ends the command with exit code
    17.
    """
    from iterreg.errors import IterregError, PluginError
    from iterreg.registry import installed_plugins

    found = installed_plugins()
    failed = []
    for plugin in found:
        try:
            plugin.loaded()
            tell(f"{plugin.kind:<16}  {plugin.name:<24}  {plugin.source}")
        except IterregError as error:
            failed.append(str(error))
            tell(f"{plugin.kind:<16}  {plugin.name:<24}  {plugin.source}: cannot be loaded")
    if not found:
        tell("No plug-ins are installed. docs/plugins.rst tells how to write one.")
    if failed:
        raise PluginError(failed[0])
