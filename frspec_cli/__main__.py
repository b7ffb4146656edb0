"""`python -m frspec_cli` is `frspec`."""

from frspec_cli.cli.app import main

if __name__ == "__main__":
    main()
