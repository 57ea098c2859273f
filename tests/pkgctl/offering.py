"""Support for the tests of sync: store paths in a signed cache, and a server that offers them."""

import base64
import json
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import nix
from nix.store import call

TOKEN = "pkgd_a-token-of-scope-sync"
BUILDER = """
derivation {
  name = "profile-@NAME@";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [
    "-c"
    "mkdir -p $out/bin; cd $out/bin; printf '#!/bin/sh\\necho @NAME@\\n' >tool; chmod +x tool"
  ];
  PATH = "/bin:/usr/bin";
}
"""


def check_output(store, *argv):
    """Run a program of Nix that must succeed; return what it prints."""
    done = call(store, list(map(str, argv)))
    assert done.code == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class SignedCache:
    """A cache in a folder, of profiles with one program each, and its keys."""

    def __init__(self, folder):
        """Make keys; nothing is built yet."""
        self.store = nix.private_store(folder / "builder")
        self.folder = folder / "cache"
        self.keys = {}
        for name in ("right", "wrong"):
            secret, public = folder / f"{name}.key", folder / f"{name}.pub"
            check_output(
                self.store, "nix-store", "--generate-binary-cache-key", f"{name}-1", secret, public
            )
            self.keys[name] = public.read_text()
        self._secret = folder / "right.key"

    def add(self, name):
        """Build a profile whose program says its name; return its store path."""
        expression = BUILDER.replace("@NAME@", name)
        path = check_output(self.store, "nix-build", "--no-out-link", "--expr", expression)
        self.publish(path)
        return path

    def publish(self, path):
        """Copy a store path to the cache."""
        target = f"file://{self.folder}?secret-key={self._secret}&compression=zstd"
        features = ("--extra-experimental-features", "nix-command")
        check_output(self.store, "nix", *features, "copy", "--to", target, path)

    def nars(self):
        """Return the compressed contents of what it has."""
        return list((self.folder / "nar").iterdir())


class MachineStore:
    """The Nix of a machine that knows of no store path yet; its store folder is the cache's."""

    def __init__(self, cache, folder):
        own = nix.private_store(folder, fsync_metadata="false").environ
        names = [name for name in own if name.startswith(("NIX_", "XDG_CACHE"))]
        self.environ = {name: own[name] for name in names}
        self.environ["NIX_STORE_DIR"] = str(cache.store.directory)


class OfferingServer:
    """A server as a sync sees it: one profile, a cache, and machines that report.

    `offered` is what it offers, `reports` what machines have said, `statuses` those of the answers
    about the profile. `refuse` is the status of every answer of the API, if any.
    """

    def __init__(self, cache):
        self.offered, self.etag = None, 0
        self.reports, self.statuses, self.cache_logins = [], [], []
        self.refuse, self.refusals, self.report_status = None, 0, 200
        self.public_key, self.netrc = cache.keys["right"], None
        self.cache_folder = cache.folder
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=server.cache_folder)

            def do_GET(self):
                server.get(self)

            def do_HEAD(self):
                self.path = self.path.removeprefix("/cache")
                super().do_HEAD()

            def do_PUT(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.reports.append((self.path.rpartition("/")[2], body))
                server.answer(self, {}, server.report_status)

            def log_message(self, *_):
                pass

            def file(self):
                """Answer with a file of the cache."""
                self.path = self.path.removeprefix("/cache")
                super().do_GET()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cache_url = f"{self.url}/cache"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])

    def offer(self, store_path, generation=1):
        """Offer a store path from now on."""
        self.offered = {"store_path": store_path, "generation": generation}
        self.etag += 1

    def get(self, handler):
        """Answer a GET."""
        if handler.path.startswith("/cache/"):
            self.cache_logins.append(handler.headers["Authorization"])
            handler.file()
        elif self.refuse:
            self.refusals += 1
            self.answer(handler, {"detail": "refused"}, self.refuse)
        elif handler.path == "/api/v1/cache":
            told = {"url": self.cache_url, "public_key": self.public_key, "netrc": self.netrc}
            self.answer(handler, told)
        elif handler.path == "/api/v1/profiles":
            self.answer(handler, [{"name": "web", "packages": []}])
        else:
            etag = f'"{self.etag}"'
            status = 304 if handler.headers["If-None-Match"] == etag else 200
            self.statuses.append(status)
            self.answer(handler, {"name": "web", "offered": self.offered}, status, ETag=etag)

    def answer(self, handler, document, status=200, **headers):
        """Send an answer of the API."""
        body = b"" if status == 304 else json.dumps(document).encode()
        kind = "application/problem+json" if status >= 400 else "application/json"
        handler.send_response(status)
        own = {"X-Request-ID": "1", "Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in {**own, **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    @property
    def said(self):
        """What the last report said: state, generation and error."""
        return tuple(self.reports[-1][1][name] for name in ("state", "generation", "error"))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def basic(token, login="pkgd"):
    """Return the header by which Nix sends a login and a token."""
    return f"Basic {base64.b64encode(f'{login}:{token}'.encode()).decode()}"


def tool(path):
    """Run the program of a profile; return what it prints."""
    return subprocess.check_output([path / "bin" / "tool"], text=True).strip()
