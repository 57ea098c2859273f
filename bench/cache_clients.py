"""The binary cache behind nginx: narinfos by a load generator, and 1,000 paths by a real Nix.

nginx has the configuration of deploy/, without TLS. It verifies tokens by CACHE_ACCESS_DIR; or pkgd
does for each request; or, with one line changed, nobody does.
"""

import os
import shutil
import subprocess
import tempfile
from base64 import b64encode
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers
import wrk
from support import remove_store
from workbench import SECONDS, stopwatch

import nix
from nix.cache import FORGET, NIX

PATHS = 1_000
PATH_BYTES = 4096
NARINFO = "GET narinfo"
QUERY = f"nix path-info, {PATHS:,} paths"
COPY = f"nix copy, {PATHS:,} paths"
BY_NGINX = "nginx verifies the token"
BY_PKGD = "pkgd verifies the token"
BY_NOBODY = "nobody verifies the token"
PUBLISH_SECONDS = 300
WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Client:
    """A client of the cache: the server that it asks, and what it logs in with."""

    subject: str
    front: servers.Front
    login: str
    secret: str

    def case(self, file):
        """Return the load of requests for the paths in a file."""
        basic = b64encode(f"{self.login}:{self.secret}".encode()).decode()
        return wrk.Case(
            NARINFO, self.subject, self.front, "/", f"Basic {basic}", "paths", str(file)
        )


def measure(results, effort):
    """Measure the clients in turn."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        stack.callback(remove_store, folder / "nix")
        service = stack.enter_context(_service(folder))
        paths = _publish(service, folder)
        service.init_db().start()
        clients = _clients(stack, folder, service)
        cases = [client.case(_urls(folder, paths)) for client in clients]
        for case in cases:
            wrk.send(case, WARM_UP_SECONDS)

        for _ in range(effort.rounds):
            for case in cases:
                wrk.measure(results, case, effort.seconds)
        for _ in range(effort.batches):
            for client in clients:
                _measure_nix(results, client, folder, paths)


@contextmanager
def _service(folder):
    """Yield a service with a cache, not started yet."""
    access = folder / "cache-access"
    access.mkdir(mode=0o750)
    with servers.pkgd(
        folder,
        CACHE=f"file://{folder / 'cache'}",
        CACHE_KEY_FILE=folder / "cache.key",
        CACHE_ACCESS_DIR=access,
        CACHE_ACCEL="/internal-cache/",
        TRUSTED_PROXIES=1,
    ) as service:
        service.command("cache-key")
        yield service


def _publish(service, folder):
    """Add made-up store paths to the service's store, and publish them; return them."""
    source = folder / "source"
    source.mkdir()
    for number in range(PATHS):
        (source / f"path{number}").write_bytes(os.urandom(PATH_BYTES))
    store = nix.private_store(service.settings["STORE_DIR"])
    argv = ["nix-store", "--add", *source.iterdir()]
    done = subprocess.run(argv, env=store.environ, check=True, capture_output=True, text=True)
    paths = done.stdout.split()
    cache = nix.Cache(service.settings["CACHE"], service.settings["CACHE_KEY_FILE"])
    assert nix.publish(store, cache, paths, seconds=PUBLISH_SECONDS).paths == PATHS
    return paths


def _clients(stack, folder, service):
    """Start two nginx in front of the service; return the clients."""
    secret = service.sign_in()
    login = service.get("cache")["netrc"].split()[3]
    front = stack.enter_context(_nginx(folder, "nginx", service))
    open_to_all = [("auth_basic pkgd;", "auth_basic off;")]
    open_front = stack.enter_context(_nginx(folder, "open-nginx", service, open_to_all))
    return [
        Client(BY_NOBODY, open_front, login, secret),
        Client(BY_NGINX, front, login, secret),
        Client(BY_PKGD, front, "pkgd", secret),  # nginx knows tokens by their own logins alone
    ]


def _nginx(folder, name, service, changes=()):
    """Return nginx in front of the service, not started yet."""
    (folder / name).mkdir()
    places = [("/var/lib/pkgd", str(folder)), (" ssl http2;", ";")]
    return servers.Front(folder / name, service, [*places, *changes])


def _urls(folder, paths):
    """Return a file with the path of each narinfo, as requests.lua reads it."""
    file = folder / "narinfos"
    file.write_text("".join(f"/cache/{nix.hash_of(path)}.narinfo\n" for path in paths))
    return file


def _measure_nix(results, client, folder, paths):
    """Have a Nix that knows nothing of the cache look all paths up, and another copy them."""
    key = nix.public_key(folder / "cache.key")
    machine, url = folder / "machine", f"{client.front.url}/cache"
    (folder / "netrc").write_text(
        f"machine 127.0.0.1 login {client.login} password {client.secret}\n"
    )
    options = {"netrc-file": folder / "netrc", "trusted-public-keys": key}
    given = [word for option in options.items() for word in ("--option", *option)]
    store = nix.private_store(folder / "nix")
    to = f"local?root={machine}&store={store.directory}"
    for what, argv in (
        (QUERY, [*NIX, "path-info", "--store", url]),
        (COPY, [*NIX, "copy", "--from", url, "--to", to]),
    ):
        environ = {**store.environ, "XDG_CACHE_HOME": str(folder / "nix-cache")}
        with stopwatch() as elapsed:
            subprocess.run(
                [*argv, *given, *FORGET, *paths], env=environ, check=True, capture_output=True
            )
        results.series(what, client.subject, SECONDS).add(elapsed())
        shutil.rmtree(folder / "nix-cache")
    remove_store(machine)
