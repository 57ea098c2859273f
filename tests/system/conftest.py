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
