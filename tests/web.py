"""A web server for downloads that succeed or fail, each in its own way."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = b"what was asked for\n"
SHA256 = "588c65726b8ce269bada25590169f52634d3875f03b7ac796b365348c8f2b07b"


class Handler(BaseHTTPRequestHandler):
    """Answers /STATUS/… with that status, while the server is broken any path with 503."""

    def do_GET(self):
        self.server.paths.append(self.path)
        status = re.match(r"/(\d{3})/", self.path)
        code = 503 if len(self.server.paths) <= self.server.failures else int(status[1])
        self.send_response(code)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.sent_bytes])

    def do_CONNECT(self):
        """Refuse to be a proxy."""
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_):
        """Write no log."""


class Web(ThreadingHTTPServer):
    """The server; its first `failures` requests get 503, and `paths` is what was asked for.

    It sends `content`, and breaks off after `sent_bytes`.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures, self.paths = 0, []
        self.content, self.sent_bytes = CONTENT, None
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()
