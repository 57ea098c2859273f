"""Python imports this as it starts: it measures the coverage of the programs that tests start.

Only once their libraries are imported, of which nothing is measured: imports take half as long
again under coverage, and are most of what a short program does.
"""

import importlib
import os
import sys
from pathlib import Path

# Not prometheus_client, which looks at the environment as it is imported.
SERVER = (
    *("dotenv", "flask_migrate", "flask_smorest", "flask_sqlalchemy", "limits.strategies"),
    *("psutil", "pythonjsonlogger.json", "semantic_version", "semver"),
    "sqlalchemy.dialects.sqlite",
)
LIBRARIES = {
    "flask": SERVER,
    "gunicorn": (*SERVER, "gunicorn.app.wsgiapp", "gunicorn.workers.gthread"),
    "pkgctl": ("click", "requests", "rich.live", "rich.progress", "rich.table"),
}


def measure(settings):
    """Import the libraries of the program that is starting, then start coverage."""
    for argument in sys.orig_argv[1:3]:
        for library in LIBRARIES.get(Path(argument).name, ()):
            importlib.import_module(library)
    coverage = importlib.import_module("coverage")
    os.environ["COVERAGE_PROCESS_CONFIG"] = settings
    coverage.process_startup()
    # Else what this program starts would be measured from its very start.
    del os.environ["COVERAGE_PROCESS_CONFIG"]


if "COVERAGE_AFTER_IMPORTS" in os.environ:
    measure(os.environ["COVERAGE_AFTER_IMPORTS"])
