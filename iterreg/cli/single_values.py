"""Options that take one value, and refuse a second."""

from __future__ import annotations

from collections.abc import Sequence

import click


def refuse_seconds(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """Refuse an option that is given twice and takes one value; click would keep the last.

    Args:
        command: that will get the words.
        ctx: of the command, for the message.
        args: the words that follow its name.

    Raises:
        click.UsageError: naming the option.
    """
    try:
        _, _, order = command.make_parser(ctx).parse_args(list(args))
    except click.UsageError:
        return  # told when the command itself is parsed
    for param in order:
        if not isinstance(param, click.Option) or param.multiple or param.count:
            continue
        if order.count(param) > 1 and (not param.is_flag or param.secondary_opts):
            raise click.UsageError(
                f"{param.opts[-1]} takes one value, and was given {order.count(param)}", ctx
            )
