"""A receiver of webhooks that answers as a test wants, also in ways that no web server does."""

import json
import socketserver
import ssl
import subprocess
import threading
from contextlib import suppress
from typing import NamedTuple

from proxy import program


class Message(NamedTuple):
    """What was posted."""

    path: str
    headers: dict
    body: bytes

    @property
    def json(self):
        """The body, read."""
        return json.loads(self.body)

    @property
    def seq(self):
        """The number of the event that it tells of."""
        return self.json["data"]["seq"]


def answer(status, text="", *headers):
    """Return the bytes of an answer."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(text)}", *headers, "", text]
    return "\r\n".join(lines).encode()


class Handler(socketserver.StreamRequestHandler):
    """Reads one request, and has the receiver answer it."""

    def handle(self):
        # The sender may close the connection at any moment.
        with suppress(OSError):
            path = self.rfile.readline().split()[1].decode()
            lines = iter(self.rfile.readline, b"\r\n")
            pairs = (line.decode().rstrip().split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in pairs}
            body = self.rfile.read(int(headers["content-length"]))
            message = Message(path, headers, body)
            self.server.messages.append(message)
            for piece in self.server.answer(message):
                self.wfile.write(piece)


class Receiver(socketserver.ThreadingTCPServer):
    """The server; `answer` returns the pieces of the answer to a message, `messages` came so far.

    Leaving its `with` block ends it.
    """

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, address="127.0.0.1", port=0, tls=None):
        super().__init__((address, port), Handler)
        self.messages, self.tls = [], tls
        self.answer = lambda _message: [answer(204)]
        scheme = "https" if tls else "http"
        self.port = self.server_address[1]
        self.url = f"{scheme}://{address}:{self.port}"

    def get_request(self):
        """Accept a connection."""
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True)
        return connection, address

    def handle_error(self, *_):
        """Write nothing: a sender that refuses the certificate is one."""

    def says(self, *answers):
        """Answer with these, one after the other, and with 204 when they are used up."""
        left = list(answers)
        self.answer = lambda _message: [left.pop(0) if left else answer(204)]

    @property
    def seqs(self):
        """The numbers of the events that it was told of."""
        return [message.seq for message in self.messages]

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


def make_tls(folder, name):
    """Make a self-signed certificate for a name; return its path, and what a receiver needs."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    argv = [program("openssl"), "req", "-x509", *kind, *names, "-keyout", key, "-out", certificate]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context
