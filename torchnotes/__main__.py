"""python -m torchnotes COMMAND: what can be done without writing a program.

Bad input is answered by one line and exit status 2.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import COMMANDS, BadInput

PROGRAM = "python -m torchnotes"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")  # without the usage, of many lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module(f"torchnotes.commands.{name}") for name in COMMANDS}
    for name, module in modules.items():
        about = str(module.__doc__)
        of_command = parsers.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(of_command)
    options = parser.parse_args(arguments)
    try:
        return modules[options.command].run(options)
    except BadInput as error:
        print(f"{PROGRAM} {options.command}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
