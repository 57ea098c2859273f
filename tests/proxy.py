"""nginx or Caddy in front of the service, with the files of deploy/, on ports of their own."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from service import free_port
from support import IN_CI, until

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
HOST = "pkgd.example.org"
RECEIVE_BYTES = 4096
SEGMENT_BYTES = 1400  # as over Ethernet
# What operations.md has an operator do to serve pkgd below /pkgd/.
NGINX_PREFIX = [
    ("# rewrite ^/pkgd", "rewrite ^/pkgd"),
    ("# proxy_set_header X-Forwarded-Prefix", "proxy_set_header X-Forwarded-Prefix"),
    ('proxy_set_header X-Forwarded-Prefix "";', ""),
]
CADDY_PREFIX = [
    ("# uri strip_prefix", "uri strip_prefix"),
    ("# request_header X-Forwarded-Prefix", "request_header X-Forwarded-Prefix"),
    ("request_header -X-Forwarded-Prefix", ""),
]
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def program(name):
    """Return the path of a program; a missing one is an error in CI, and a skip elsewhere."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        assert not IN_CI, f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return found


def make_certificate(folder):
    """Write a self-signed certificate and its key."""
    names = ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    argv = [program("openssl"), "req", "-x509", *kind, "-subj", f"/CN={HOST}", *names]
    subprocess.run(argv, check=True, capture_output=True)


class Proxy:
    """A proxy that runs within its `with` block, with the interface that both kinds share."""

    def __init__(self, folder):
        """Choose a port and a log; nothing starts yet."""
        self.port = free_port()
        self.folder = folder
        self.log = folder / "proxy.log"
        self.argv = []
        self.process = None

    def __enter__(self):
        with self.log.open("wb") as log:
            environ = {**os.environ, "HOME": str(self.folder)}
            self.process = subprocess.Popen(self.argv, env=environ, stdout=log, stderr=log)
        until(self._listens)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        print(self.log.read_text())  # shown when the test fails

    def _listens(self):
        assert self.process.poll() is None, self.log.read_text()
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", self.port)).close() is None


class Nginx(Proxy):
    """nginx with deploy/nginx.conf in front of a port, with a self-signed certificate."""

    def __init__(self, folder, upstream, changes=()):
        """Write the configuration, with changes (old, new) to its text."""
        super().__init__(folder)
        self.plain_port = free_port()
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

        make_certificate(folder)
        self._copy(folder, upstream, changes)
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)
        # Workers of another user could not enter the folders of the tests.
        user = "user root;" if os.geteuid() == 0 else ""
        main = folder / "nginx.conf"
        main.write_text(
            f"{user} pid {folder}/pid; daemon off; error_log stderr;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; {temporary} include {folder}/deploy/nginx.conf; }}\n"
        )
        self.argv = [program("nginx"), "-p", folder, "-e", "stderr", "-c", main]

    def _copy(self, folder, upstream, changes):
        names = ("nginx.conf", "nginx/http.conf", "nginx/server.conf")
        files = {name: (DEPLOY / name).read_text() for name in names}
        for old, new in [
            ("127.0.0.1:8000", f"127.0.0.1:{upstream}"),
            ("/etc/pkgd/tls", str(folder)),
            ("/opt/pkgd/deploy", str(folder / "deploy")),
            ("listen 80;", f"listen 127.0.0.1:{self.plain_port};"),
            ("listen 443 ", f"listen 127.0.0.1:{self.port} "),
            *changes,
        ]:
            assert any(old in text for text in files.values()), old
            files = {name: text.replace(old, new) for name, text in files.items()}

        (folder / "deploy" / "nginx").mkdir(parents=True)
        for name, text in files.items():
            only_ipv4 = re.sub(r"    listen \[::\].*\n", "", text)
            (folder / "deploy" / name).write_text(only_ipv4)

    def connect(self, timeout=30):
        """Return a TLS connection to the site."""
        return self.tls.wrap_socket(dial(self.port, timeout), server_hostname=HOST)


class ContainerNginx(Proxy):
    """nginx as in the container, without TLS, in front of a Unix socket."""

    def __init__(self, folder, upstream):
        """Write the configuration."""
        super().__init__(folder)
        for name in ("container.conf", "http.conf", "server.conf"):
            text = (DEPLOY / "nginx" / name).read_text()
            for old, new in [
                ("/app/deploy/nginx", str(folder)),
                ("/run/pkgd/gunicorn.sock", str(upstream)),
                ("/tmp/nginx", f"{folder}/nginx"),
                ("listen 8000;", f"listen 127.0.0.1:{self.port};"),
            ]:
                text = text.replace(old, new)
            (folder / name).write_text(text)
        user = ["-g", "user root;"] if os.geteuid() == 0 else []
        config = folder / "container.conf"
        self.argv = [program("nginx"), "-p", folder, "-e", "stderr", *user, "-c", config]

    def connect(self, timeout=30):
        """Return a connection to the site."""
        return dial(self.port, timeout)


class Caddy(Proxy):
    """Caddy with deploy/Caddyfile in front of a port, without TLS."""

    def __init__(self, folder, upstream, changes=()):
        """Write the configuration, with changes (old, new) to its text."""
        super().__init__(folder)
        text = (DEPLOY / "Caddyfile").read_text()
        for old, new in [("127.0.0.1:8000", f"127.0.0.1:{upstream}"), *self.site(), *changes]:
            assert old in text, old
            text = text.replace(old, new)
        config = folder / "Caddyfile"
        config.write_text(text)
        self.argv = [program("caddy"), "run", "--adapter", "caddyfile", "--config", config]

    def site(self):
        """Return the changes that have it serve on its port."""
        return [
            (f"\n{HOST}, api.{HOST} {{", f"\nhttp://:{self.port} {{"),
            ("\n{\n", "\n{\n\tadmin off\n\tauto_https off\n"),
        ]

    def connect(self, timeout=30):
        """Return a connection to the site."""
        return dial(self.port, timeout)


class TlsCaddy(Caddy):
    """Caddy as it is deployed, but with certificates of its own making."""

    def site(self):
        """Return the changes that have it serve https on its port, and http on another."""
        self.plain_port = free_port()
        ports = f"\thttp_port {self.plain_port}\n\thttps_port {self.port}\n"
        return [("\n{\n", f"\n{{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n{ports}")]

    def _listens(self):
        """Tell whether it has made its certificate, without which it refuses TLS."""
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if super()._listens():
            with suppress(ssl.SSLError):
                tls.wrap_socket(dial(self.port), server_hostname=HOST).close()
                return True
        return False


def dial(port, timeout=30):
    """Return a connection to a port, whose buffers an answer fills soon unless it is read.

    With segments as large as the loopback interface allows, the kernel would buffer megabytes.
    """
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    connection.settimeout(timeout)
    connection.connect(("127.0.0.1", port))
    return connection
