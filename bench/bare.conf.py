"""How gunicorn serves the bare route: with the settings that pkgd's own configuration has."""

import os

bind = f"127.0.0.1:{os.environ['PORT']}"
worker_class = "reception.PatientWorker"
logger_class = "reception.QuietLogger"
workers = int(os.environ["WEB_PROCESSES"])
threads = int(os.environ["WEB_THREADS"])
preload_app = True
keepalive = 15
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4096
control_socket_disable = True
