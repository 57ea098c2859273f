"""Run the command as `python -m pkgctl`."""

from pkgctl.cli import main

main()
