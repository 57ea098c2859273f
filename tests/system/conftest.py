"""Fixtures of the tests of real processes: a service, not started or running."""

import browser
import pytest
from service import Service

# The processes of these files measure their coverage. Those of other files do nothing else, but
# under other circumstances, or do what tests of tests/server do in their own process.
MEASURED_FILES = (
    "test_catalogs_apart",
    "test_descriptors",
    "test_gunicorn",
    "test_lost_database",
    "test_outages",
    "test_ownership",
    "test_pin_commands",
    "test_upgrade_under_load",
)


@pytest.fixture
def service(request, settings, recipes):
    """A service that is not started yet; the test may change its settings first."""
    with Service(settings, measured=request.path.stem in MEASURED_FILES) as service:
        service.recipes = recipes
        yield service


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium that the tests of this process share."""
    with browser.chromium() as chromium:
        yield chromium


@pytest.fixture
def running(service):
    """A running service, which sends an admin's token with every request."""
    service.start().sign_in()
    return service


@pytest.fixture
def flask(service, create_app):
    """Return a function that runs a `flask` command of the service, but in this process.

    It takes a second less than a process does, most of which is its start.
    """

    def flask(*arguments, **settings):
        return create_app(service.settings | settings).test_cli_runner().invoke(args=arguments)

    return flask
