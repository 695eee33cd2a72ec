"""What `python -m eval.gate` and `python -m eval.teacher` do alike: errors become messages."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ledger.errors import FlywheelError


def run(command: click.Command, name: str, arguments: Sequence[str] | None) -> int:
    """Run a command of `python -m eval.<name>`; returns its exit code.

    Args:
        arguments: None takes those of this process.
    """
    try:
        command(arguments, prog_name=f"python -m eval.{name}", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except FlywheelError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    return 0
