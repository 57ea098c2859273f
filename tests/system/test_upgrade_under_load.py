"""The upgrade of docs/operations.md, while 50 requests a second come."""

import figures
import pytest
from proxy import Nginx
from socket_activation import ActivatedService, Load, next_release
from support import SQLITE, until

from database import KNOWN

PER_SECOND = 50
SUCCESSES = {200, 201}
# All requests come from one address, of which nginx serves 128 at once.
MANY_CLIENTS = ("limit_conn pkgd_addresses 128;", "limit_conn pkgd_addresses 4096;")


@pytest.fixture
def service(settings, recipes):
    """A running service behind a socket that outlives it."""
    settings |= {"TRUSTED_PROXIES": 1, "APP_ENV": "production"}
    with ActivatedService(settings) as service:
        service.recipes = recipes
        service.start()
        secret = service.command("create-token").stdout.strip()
        service.session.headers["Authorization"] = f"Token {secret}"
        service.secret = secret
        yield service


@SQLITE
def test_an_upgrade_loses_no_request(service, tmp_path, database_url):
    with Nginx(tmp_path, service.port, [MANY_CLIENTS]) as nginx:
        places = [(service.port, None), (nginx.port, nginx.tls)]
        load = Load(service.secret, places, PER_SECOND)
        with load.running():
            for number in range(figures.ROUNDS):
                sent = load.sent + PER_SECOND * figures.UPGRADE_SECONDS
                until(lambda sent=sent: load.sent >= sent)
                upgrade(service, tmp_path / f"release-{number}", number)

    assert (load.lost, load.without_retry_after) == ([], 0)
    assert load.answers.keys() <= SUCCESSES | {503}
    figures.keep(
        "the upgrade of operations.md with a new schema, at 50 requests/s, half of them by nginx",
        database_url,
        figures.rounds(f"{load.sent:,} requests"),
        f"{len(load.lost)} lost, {load.answers[503]} got 503 with `Retry-After`; "
        f"the slowest took {load.slowest:.1f} s; the build that ran was finished",
    )


def upgrade(service, release, number):
    """Upgrade to the next release as operations.md says, with a build running at its beginning."""
    name = f"slow-{release.name}"
    service.recipes.add(name, f"{service.recipes.gate(name)}; touch $out")
    task_id = service.schedule(name, "1.0.0")
    until(lambda: service.task(task_id)["status"] == "running")

    next_release(release, KNOWN[-1], number)
    draining = service.start_command("drain", "--wait", "60")
    until((service.data_dir / "drained").exists)
    service.recipes.open(name)
    assert draining.wait(90) == 0
    assert service.task(task_id)["attempt"] == 1
    link(service, release)
    service.restart()
    service.await_ready()
    assert service.command("resume").returncode == 0

    assert service.ended(task_id)["status"] == "succeeded"


def link(service, release):
    """Have the next start be of another release, in one step."""
    link = service.current.with_name("new")
    link.symlink_to(release)
    link.rename(service.current)
