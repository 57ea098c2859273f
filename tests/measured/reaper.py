"""Runs the reaper of builds with site, without which its coverage could not be measured."""

import os
import runpy
import site
import sys
from pathlib import Path


def saved(function):
    """Return a function that saves what was measured before it ends this program."""

    def call(*arguments):
        if "coverage" in sys.modules:
            sys.modules["coverage"].Coverage.current().save()
        function(*arguments)

    return call


site.main()  # starts coverage, as the environment says
os._exit, os.execvpe = saved(os._exit), saved(os.execvpe)
runpy.run_path(str(Path(__file__).parents[2] / "nix" / "reaper.py"))
