"""Starts coverage in the programs that tests start, once their libraries are imported.

Python imports a module of this name whenever it starts; tests/conftest.py puts this folder on the
PYTHONPATH of all that tests start. By itself (`patch` in pyproject.toml), coverage starts before
the program, and the imports of libraries then take half as long again. They are most of what a
short program does, and nothing of them is measured. Our own modules are imported later.

The lists need not be complete: a library that they lack is imported while coverage runs, which only
takes longer.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# Not prometheus_client, which looks at the environment as it is imported.
SERVER = (
    *("dotenv", "flask_migrate", "flask_smorest", "flask_sqlalchemy", "limits.strategies"),
    *("psutil", "pythonjsonlogger.json", "semantic_version", "semver"),
    *("logging.config", "sqlalchemy.dialects.sqlite", "sqlite3", "tarfile", "urllib.request"),
    *("werkzeug.middleware.proxy_fix", "wsgiref.simple_server"),
)
# For the processes of pytest-xdist (`python -u -c …`); pytest imports its plugins itself.
TESTS = (
    *("_pytest.config", "_pytest.main", "click.testing", "jsonschema", "openapi_spec_validator"),
    *("psycopg", "requests", "rich.progress"),
)
LIBRARIES = {
    "-u": (*SERVER, *TESTS),
    "flask": SERVER,
    "gunicorn": (*SERVER, "gunicorn.app.wsgiapp", "gunicorn.workers.gthread"),
    "pkgctl": ("click", "requests", "rich.live", "rich.progress", "rich.table"),
}


def measure(settings):
    """Import the libraries of the program that is starting, then start coverage."""
    program = sys.orig_argv[1:3]  # a path, or `-m` and a module
    for library in (name for word in program for name in LIBRARIES.get(Path(word).name, ())):
        import_module(library)
    os.environ["COVERAGE_PROCESS_CONFIG"] = settings
    import_module("coverage").process_startup()
    # Else coverage would start by itself, at once, in what this program starts.
    del os.environ["COVERAGE_PROCESS_CONFIG"]


# Not in another Python, such as that of a virtual environment that a test makes.
IS_MEASURED = "COVERAGE_AFTER_IMPORTS" in os.environ and find_spec("coverage") is not None
if IS_MEASURED:  # pragma: no branch - nothing is measured where it does not hold
    measure(os.environ["COVERAGE_AFTER_IMPORTS"])
