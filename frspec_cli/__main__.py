"""`python -m frspec_cli` is `frspec`."""

from __future__ import annotations

import sys

from frspec_cli import INTERRUPTED


def main() -> None:
    """The `frspec` command. Ctrl-C is a sentence and an exit code from the first import on."""
    try:
        from frspec_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
