"""The lines that a newcomer types in a fresh clone, and those of Procfile runners."""

import os
import signal
import subprocess
import sys

import pytest
from service import BIN, ROOT, Service

SERVES_ONLY = "flask run serves only: tasks wait in the queue until a worker runs"


def run(*argv, cwd=ROOT, **environ):
    """Run a program to its end, without the settings of a measurement of this test run."""
    inherited = {name: value for name, value in os.environ.items() if "COV" not in name}
    return subprocess.run(
        argv, env=inherited | environ, cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_pip_has_all_of_the_requirements_and_they_agree():
    done = run(BIN / "python", "-m", "pip", "install", "--no-index", "-r", "requirements.txt")

    assert (done.returncode, done.stderr) == (0, "")
    assert "pytest==" in done.stdout


def test_without_the_packages_that_the_tests_need_pytest_ends_in_one_line():
    done = run(sys.executable, "-S", "-m", "needs", cwd=ROOT / "tests")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pytest: {sys.executable} lacks Flask and ")
    assert done.stderr.endswith(" more, which the tests need: pip install -r requirements.txt\n")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of pytest that measures coverage, on a machine without Nix; its data is in `.file`."""
    # --cov last: pytest-cov would take a path after it for what to measure.
    line = ("tests/test_hello.py", "-v", "-k", "greets", "-p", "no:cacheprovider", "--cov")
    file = tmp_path_factory.mktemp("measured") / "coverage"
    done = run(BIN / "pytest", *line, "--cov-report=", COVERAGE_FILE=f"{file}", PATH=f"{BIN}")
    done.file = file
    return done


def test_pytest_measures_the_coverage_of_a_file(measured):
    assert measured.returncode == 0, measured.stdout
    assert "test_hello_greets_without_a_token PASSED" in measured.stdout
    assert b"health.py" in measured.file.read_bytes()


def test_pytest_says_in_one_line_that_nix_is_missing(measured):
    line = "nix-build is not on PATH, and most tests need it: script/bootstrap --dev installs it\n"

    assert measured.stdout.count(line) == 1


@pytest.fixture
def service(tmp_path, store_dir):
    """A service that isn't started yet, for what starts it otherwise."""
    settings = {"DATA_DIR": tmp_path / "data", "STORE_DIR": store_dir, "WEB_PROCESSES": 1}
    with Service(settings) as service:
        yield service


def test_a_procfile_runner_keeps_serving(service):
    with service.log.open("ab") as log:
        argv = [BIN / "honcho", "start"]
        service.server = subprocess.Popen(
            argv, env=service.environ(), cwd=ROOT, stdout=log, stderr=log
        )
    service.processes.append(service.server)

    service.await_ready()

    assert "The database is ready" in service.said()
    assert service.server.poll() is None
    assert service.stop() == 128 + signal.SIGTERM  # as honcho ends
    assert service.said().count("Shutting down: Master") == 1
    assert service.left() == []


def test_flask_run_serves_and_says_once_that_nobody_works_the_queue(service):
    service.settings["WORKER_THREADS"] = 0  # without which the service would not be ready
    service.command("init-db")
    service.server = service.start_command("run", "--reload", "--port", str(service.port))

    service.await_ready()

    assert service.sign_in().startswith("pkgd_")
    assert service.said().count(SERVES_ONLY) == 1
    assert service.get("tasks") == []
    assert service.stop() == 0
