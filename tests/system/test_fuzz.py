"""The API under requests that nobody thought of: schemathesis makes them up from the API document.

It checks each answer against the document, and follows what one answer leads to in another.
"""

import subprocess
import sys
from pathlib import Path

import figures
import pytest
from service import Service, unmeasured
from support import BUNDLED

HERE = Path(__file__).parent.parent
CASES = 1000
CHAINED_SECONDS = 2 * figures.SECONDS


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A service with a profile that has a past, for requests to go back to."""
    folder = tmp_path_factory.mktemp("fuzz")
    settings = {
        "DATA_DIR": folder / "data",
        "STORE_DIR": store_dir,
        "CATALOGS": BUNDLED,
        "MIN_FREE_BYTES": 1,
        "TRUSTED_PROXIES": 1,
    }
    with Service(settings, measured=False) as service:
        service.init_db()
        service.start().sign_in()
        for version in ("2.12.1", "2.10.0"):
            service.ended(service.schedule("hello", version))
        for package_id in (1, 2):
            service.post(f"package/{package_id}/activate")
        yield service


@pytest.fixture(scope="module")
def fuzz(service, tmp_path_factory):
    """Return a function that runs schemathesis and returns what it has to say."""
    secret = service.session.headers["Authorization"].removeprefix("Token ")

    def fuzz(*options):
        program = Path(sys.executable).with_name("schemathesis")
        argv = [program, "--no-color", "--config-file", HERE / "schemathesis.toml", "run"]
        argv += [f"--max-examples={figures.EXAMPLES}", f"{service.url}/openapi.json", *options]
        answer = subprocess.run(
            argv,
            cwd=tmp_path_factory.mktemp("schemathesis"),
            env={**unmeasured(), "PYTHONPATH": str(HERE), "TOKEN": secret},
            capture_output=True,
            text=True,
        )
        print(answer.stdout)  # shown when a test fails
        return answer

    return fuzz


@pytest.fixture(scope="module")
def single(fuzz):
    """What comes of requests one by one, to every operation."""
    return fuzz("--phases=examples,coverage,fuzzing")


@pytest.fixture(scope="module")
def chained(fuzz):
    """What comes of requests made of the answers to earlier ones."""
    return fuzz("--phases=stateful", f"--max-time={CHAINED_SECONDS}")


def test_every_answer_is_as_the_document_says(single):
    assert single.returncode == 0


def test_every_answer_is_so_whatever_went_before(chained):
    assert chained.returncode == 0


def test_thousands_of_requests_are_tried(single, chained, service):
    # By the service's log: schemathesis prints no count where the time was up too early.
    assert service.said().count(" pkgd.requests ") >= CASES


def test_the_service_has_nothing_to_complain_of(single, chained, service):
    assert "Traceback" not in service.said()
