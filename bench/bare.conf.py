"""gunicorn's settings for the bare route: pkgd's own, under the plain threaded worker."""

import os
from pathlib import Path

bind = f"127.0.0.1:{os.environ['PORT']}"
pythonpath = str(Path(__file__).resolve().parent)
worker_class = "gthread"
workers = int(os.environ["WEB_PROCESSES"])
threads = int(os.environ["WEB_THREADS"])
preload_app = True
keepalive = 15
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4096
control_socket_disable = True
