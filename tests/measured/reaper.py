"""Runs the reaper of builds with site, without which its coverage could not be measured."""

import runpy
import site
from pathlib import Path

site.main()  # starts coverage, as the environment says
runpy.run_path(str(Path(__file__).parents[2] / "nix" / "reaper.py"))
