"""script/survey: what it prints of a catalog."""

import subprocess
import sys

from service import ROOT
from support import CATALOGS


def test_a_survey_tells_what_of_a_catalog_can_be_asked_for():
    argv = [sys.executable, "-m", "script.survey", CATALOGS / "indexed.nix", "--slice", "7"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert "51 attributes, of which" in told[0]
    assert any(line.startswith("  2 attributes that throw: gone, lost") for line in told)
    assert any(line.startswith("  3 attributes that fail: breaks_2: ") for line in told)
    assert "  0 invalid semantic versions" in told
    assert "  0 different in Python" in told
    assert any("unfree" in line for line in told)
    assert "  0 not the derivation of nix-instantiate -A" in told
