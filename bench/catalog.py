"""How long a search and the versions of a name take with three indexes of 17,000 versions."""

import random
import statistics
import string
import tempfile
import time
from pathlib import Path

import psutil
from postgres import running_server
from sqlalchemy import text

import app as pkgd
import services
from catalogs import indexes, offers
from catalogs.models import CatalogIndex
from catalogs.state import Catalogs
from models import db, utcnow

CATALOGS, ROWS, ROUNDS = 3, 17_000, 60
SET = "python3Packages."  # of a third of all versions, as in nixpkgs


def measure():
    """Measure both databases; print a line for each kind of request."""
    with tempfile.TemporaryDirectory() as folder, running_server() as server:
        for kind, url in (("sqlite", f"sqlite:///{folder}/app.db"), ("pg", server.url("postgres"))):
            measure_database(Path(folder, kind), url)


def measure_database(folder, url):
    """Fill a database, and print how long requests take."""
    app = make_app(folder, url)
    with app.app_context():
        names = fill(random.Random(1))
        vacuum()
    client = app.test_client()
    secret = client.post("/api/v1/tokens").json["token"]
    chance = random.Random(2)
    words = made_up(random.Random(1))
    asked = {
        "search of a word": [chance.choice(words) for _ in range(ROUNDS)],
        "of three letters": [chance.choice(words)[:3] for _ in range(ROUNDS)],
        "of two letters": [chance.choice(words)[:2] for _ in range(ROUNDS)],
        "of two words": [" ".join(chance.sample(words, 2)) for _ in range(ROUNDS)],
        "of a name": [chance.choice(names) for _ in range(ROUNDS)],
        "of a third": ["python"] * ROUNDS,
        "of a third, short": ["py"] * ROUNDS,
        "of common words": ["the"] * ROUNDS,  # of half of all descriptions
    }
    asked = {what: [f"catalog?search={one}" for one in texts] for what, texts in asked.items()}
    asked["versions of a name"] = [f"catalog/{chance.choice(names)}" for _ in range(ROUNDS)]
    for what, paths in asked.items():
        before = cpu_seconds()
        seconds = [timed(client, path, secret) for path in paths]
        cpu = (cpu_seconds() - before) / len(paths)
        told = f"{1000 * statistics.median(seconds):6.1f} ms, slowest {1000 * max(seconds):6.1f} ms"
        spent = f"mean CPU {1000 * cpu:5.1f} ms"
        print(f"{url.partition(':')[0]:12} {what:20} median {told}, {spent}", flush=True)
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


def cpu_seconds():
    """Return the CPU time of this process, and of the database server if it is one of its own."""
    this = psutil.Process()
    times = [each.cpu_times() for each in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def timed(client, path, secret):
    """Return the seconds that a request takes."""
    began = time.perf_counter()
    answer = client.get(f"/api/v1/{path}", headers={"Authorization": f"Token {secret}"})
    assert answer.status_code == 200, answer.json
    return time.perf_counter() - began


def make_app(folder, url):
    """Return an application with as many catalogs, and an empty database."""
    paths = [folder / str(number) / "default.nix" for number in range(CATALOGS)]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("{ }")
    app = pkgd.create_app(
        {
            "DATABASE_URL": url,
            "DATA_DIR": folder / "data",
            "STORE_DIR": folder / "store",
            "CATALOGS": " ".join(map(str, paths)),
        }
    )
    app.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)
    return app


def fill(chance):
    """Add a finished index for each catalog; return the names in them."""
    words = made_up(chance)
    names = [
        f"{SET if number % 3 == 0 else ''}{chance.choice(words)}-{chance.choice(words)}"
        for number in range(ROWS)
    ]
    for state in services.get(Catalogs).states():
        index = CatalogIndex(
            catalog=state.catalog.name,
            signature=state.signature,
            todo=[["", ROWS], [SET.rstrip("."), ROWS]],
            finished_at=utcnow(),
        )
        db.session.add(index)
        db.session.commit()
        rows = [row(index.id, name, chance, words) for name in names]
        for some in batched(rows):
            offers.add(some)
        db.session.commit()
    assert len(indexes.current(services.get(Catalogs).states())) == CATALOGS
    return names


def batched(rows):
    """Return the rows in parts as large as those that are written when a catalog is indexed."""
    return [rows[place : place + 100] for place in range(0, len(rows), 100)]


def made_up(chance):
    """Return made-up words."""
    letters = string.ascii_lowercase
    return ["".join(chance.choices(letters, k=chance.randint(3, 10))) for _ in range(6000)]


def row(index_id, name, chance, words):
    """Return an offer with a description of eight words, or nine."""
    version = f"{chance.randint(0, 9)}.{chance.randint(0, 99)}.0"
    return {
        "index_id": index_id,
        "attr": name,
        "pname": name,
        "name": name,
        "spelled": version,
        "version": version,
        "description": chance.choice(["", "The "]) + " ".join(chance.choices(words, k=8)),
    }


def vacuum():
    """Let PostgreSQL know how many rows there are, as it does by itself; SQLite does not."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.dialect.name != "sqlite":
            connection.execute(text("VACUUM ANALYZE"))
