"""Run the command: python -m pkgctl."""

from pkgctl.cli import main

main()
