"""The models: what a change to them must not break."""

import subprocess
import sys

import pytest
from service import ROOT

# In a process of its own, since a model keeps the column for as long as its process lives.
NEW_COLUMN = """
import sys

from sqlalchemy import String, select
from sqlalchemy.orm import mapped_column

from app import create_app
from models import Package, Task, db

model = {"Package": Package, "Task": Task}[sys.argv[1]]
model.note = mapped_column(String, default="from Python", nullable=False)

app = create_app({"DATA_DIR": sys.argv[2]})
with app.app_context():
    db.create_all()
client = app.test_client()
token = client.post("/api/v1/tokens").json["token"]
headers = {"Authorization": f"Token {token}"}

package = {"name": "hello", "version": "2.12.1"}
created = client.post("/api/v1/packages", json=package, headers=headers)
queued = client.post("/api/v1/package/1/download", headers=headers)
with app.app_context():
    print(created.status_code, queued.status_code, db.session.scalar(select(model.note)))
"""


@pytest.mark.parametrize("model", ["Package", "Task"])
def test_a_new_column_with_a_default_in_python_is_filled_in(tmp_path, model):
    argv = [sys.executable, "-c", NEW_COLUMN, model, tmp_path]

    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("201 202 from Python\n", 0), done.stderr
