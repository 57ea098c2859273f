"""Fixtures of the tests of real processes: a service, not started or running."""

import pytest
from service import Service


@pytest.fixture
def service(settings, recipes):
    """A service that is not started yet; the test may change its settings first."""
    with Service(settings) as service:
        service.recipes = recipes
        yield service


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
