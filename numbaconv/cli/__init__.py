"""The command line: ``python -m numbaconv {train, info, warmup}``.

Each command is a module with `add_arguments` for its options and `run`, which returns the exit code.
A mistake of the user's is one line on stderr and exit code 2, Ctrl-C is exit code 130.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numbaconv

from . import info, train, warmup
from .files import UserError

COMMANDS = {"train": train, "info": info, "warmup": warmup}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m numbaconv", description=numbaconv.__doc__)
    parser.add_argument("--version", action="version", version=f"numbaconv {numbaconv.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary}\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    code : int
        0: done; 1: training failed; 2: a mistake in the arguments, a file or the installation;
        130: stopped with Ctrl-C.

    Raises
    ------
    SystemExit
        From argparse, for ``--help``, ``--version`` and options that it refuses.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if not hasattr(args, "run"):
        parser.print_help()
        return 0
    try:
        code: int = args.run(args)
    except UserError as error:
        print(f"numbaconv: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("\nnumbaconv: stopped", file=sys.stderr)
        return 130
    return code
