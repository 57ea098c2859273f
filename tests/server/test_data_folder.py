"""A data folder belongs to one store and one database; others are refused."""

import json
import os
import stat

import pytest
from support import POSTGRESQL, SQLITE

from config import load
from health import check_start

STATE_COMMANDS = (
    ["init-db"],
    ["create-token"],
    ["run-worker"],
    ["reconcile"],
    ["gc"],
    ["prune"],
    ["backup", "copy.db"],
)


@pytest.fixture
def record(settings):
    """The file in which the data folder remembers what it belongs to."""
    return settings["DATA_DIR"] / "belongs_to.json"


def run(app, *arguments, **more):
    """Run a `flask` command."""
    return app.test_cli_runner().invoke(args=arguments, **more)


# --- Another store ---


@SQLITE
@pytest.mark.parametrize("arguments", STATE_COMMANDS)
def test_no_command_works_with_another_store(
    make_app, client, downloaded, statuses, arguments, tmp_path, store_dir, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    downloaded()
    run(client.application, "reconcile")

    refused = run(make_app(STORE_DIR=tmp_path / "other"), *arguments)

    assert refused.exit_code == os.EX_CONFIG
    said = str(refused.exception) if arguments == ["run-worker"] else refused.output
    assert said.strip().count("\n") == 0
    assert f"{store_dir}/store" in said
    assert f"{tmp_path}/other/store" in said
    assert "flask adopt" in said
    assert statuses() == {"hello 2.12.1": "downloaded"}
    assert not (tmp_path / "copy.db").exists()


@SQLITE
def test_a_folder_without_a_record_tells_its_store_by_its_gc_roots(
    make_app, downloaded, record, tmp_path, statuses
):
    downloaded()
    assert not record.exists()

    refused = run(make_app(STORE_DIR=tmp_path / "other"), "reconcile")

    assert refused.exit_code == os.EX_CONFIG
    assert "belongs to the store" in refused.output
    assert statuses() == {"hello 2.12.1": "downloaded"}


@SQLITE
@pytest.mark.parametrize("environment", ["development", "production"])
def test_a_server_does_not_start_with_another_store(app, make_app, record, tmp_path, environment):
    check_start(app)
    other = make_app(STORE_DIR=tmp_path / "other", APP_ENV=environment)

    with pytest.raises(SystemExit, match=r"pkgd: DATA_DIR .* belongs to the store .*"):
        check_start(other)

    assert check_start(app) is None


@SQLITE
@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_command_without_store_dir_finds_the_private_store(
    app, settings, create_app, downloaded, is_recorded, statuses
):
    downloaded()
    if is_recorded:
        run(app, "reconcile")

    without = create_app({name: settings[name] for name in settings if name != "STORE_DIR"})

    assert run(without, "reconcile").output == "all as it should be\n"
    assert statuses() == {"hello 2.12.1": "downloaded"}


@SQLITE
def test_a_folder_of_the_machine_store_has_no_store_dir(app, settings, record):
    run(app, "init-db")
    owner = json.loads(record.read_text())
    record.write_text(json.dumps(owner | {"store": "/nix/store", "store_dir": ""}))

    assert load({"DATA_DIR": str(settings["DATA_DIR"])})["STORE_DIR"] is None


# --- Another database ---


@SQLITE
def test_another_database_is_refused_before_it_is_touched(app, make_app, client, tmp_path):
    run(app, "init-db")

    refused = run(make_app(DATABASE_URL=f"sqlite:///{tmp_path}/other.db"), "init-db")

    assert refused.exit_code == os.EX_CONFIG
    assert "the database app.db" in refused.output
    assert f"the database {tmp_path}/other.db" in refused.output
    assert not (tmp_path / "other.db").exists()


@POSTGRESQL
def test_the_record_and_the_refusal_hold_no_password(app, make_app, record):
    run(app, "init-db")
    url = "postgresql://somebody:secret@db.example/pkgd"

    refused = run(make_app(DATABASE_URL=url), "reconcile")
    adopted = run(make_app(DATABASE_URL=url), "adopt", "--yes")

    assert "postgresql://db.example:5432/pkgd" in refused.output
    assert json.loads(record.read_text())["database"] == "postgresql://db.example:5432/pkgd"
    for text in (refused.output, adopted.output, record.read_text()):
        assert "secret" not in text
        assert "somebody" not in text


@SQLITE
def test_a_folder_that_was_moved_still_belongs_to_its_database(app, settings, create_app, tmp_path):
    run(app, "init-db")
    settings["DATA_DIR"].rename(tmp_path / "moved")

    del settings["DATABASE_URL"]
    moved = create_app(settings | {"DATA_DIR": tmp_path / "moved"})

    assert run(moved, "reconcile").output == "all as it should be\n"


@SQLITE
def test_the_same_database_may_be_named_in_another_way(app, make_app, settings, tmp_path):
    run(app, "init-db")
    (tmp_path / "link").symlink_to(settings["DATA_DIR"])

    same = make_app(DATABASE_URL=f"sqlite:///{tmp_path}/link/app.db")

    assert run(same, "reconcile").exit_code == 0


# --- The record ---


@SQLITE
def test_a_folder_of_an_earlier_version_is_adopted_silently(app, record, activated):
    activated()

    assert run(app, "reconcile").output == "all as it should be\n"

    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert [one.name for one in record.parent.glob(".belongs*")] == []


@SQLITE
@pytest.mark.parametrize("broken", ["", "[]", "{}", "null", "\0"])
def test_a_broken_record_is_told_in_one_line_and_can_be_written_anew(app, record, broken):
    record.write_text(broken)

    refused = run(app, "reconcile")

    assert (refused.exit_code, refused.output.count("\n")) == (os.EX_CONFIG, 1)
    assert f"{record} can't be read" in refused.output
    assert "has lost its record" in run(app, "adopt", input="y\n").output
    assert run(app, "reconcile").exit_code == 0


@SQLITE
def test_a_folder_that_can_not_be_written_is_told_in_one_line(make_app, tmp_path):
    (tmp_path / "file").touch()

    refused = run(make_app(DATA_DIR=tmp_path / "file" / "data"), "prune")

    assert (refused.exit_code, refused.output.count("\n")) == (os.EX_CONFIG, 1)
    assert "DATA_DIR can't be used" in refused.output


# --- Adopting ---


@SQLITE
def test_adopting_asks_first(app, make_app, tmp_path):
    run(app, "init-db")
    other = make_app(STORE_DIR=tmp_path / "other")

    refused = run(other, "adopt", input="n\n")

    assert refused.exit_code == 1
    assert "belongs to the store" in refused.output
    assert run(app, "reconcile").exit_code == 0

    assert run(other, "adopt", input="y\n").exit_code == 0
    assert run(app, "reconcile").exit_code == os.EX_CONFIG


@SQLITE
def test_a_folder_without_a_record_can_be_adopted(app):
    assert "belongs to nothing yet" in run(app, "adopt", input="y\n").output


@SQLITE
def test_a_folder_can_leave_its_private_store_for_that_of_the_machine(app, settings, record):
    run(app, "init-db")

    assert run(app, "adopt", "--machine-store", "--yes").exit_code == 0

    assert json.loads(record.read_text())["store"] == "/nix/store"
    assert load({"DATA_DIR": str(settings["DATA_DIR"])})["STORE_DIR"] is None


@SQLITE
def test_the_first_of_several_starts_decides(app, record):
    """A record that another process has just written is not replaced."""
    run(app, "init-db")
    before = os.stat(record).st_ino

    for _ in range(3):
        check_start(app)

    assert os.stat(record).st_ino == before


def test_a_command_without_a_schema_names_the_command_to_run(tmp_path, create_app):
    refused = run(create_app({"DATA_DIR": tmp_path / "new"}), "reconcile")

    assert refused.exit_code == 1
    assert refused.output.endswith("run flask init-db\n")


def test_links_that_lead_nowhere_tell_nothing(tmp_path):
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "1-0").write_text("no link")
    (tmp_path / "profile-1-link").symlink_to("relative")

    assert load({"DATA_DIR": str(tmp_path)})["STORE_DIR"] is None


# --- A record that somebody else has written ---


@SQLITE
@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "null",
        '{"store": "/x/store", "store_dir": "/x\\u0000y", "database": "app.db"}',
        '{"store": "/x/store", "store_dir": "/x\\ud800", "database": "app.db"}',
        '{"store": null, "store_dir": null, "database": 5}',
        '{"store": "x", "store_dir": "x", "database": "app.db"}',
    ],
)
def test_a_record_of_anything_is_refused_until_it_is_adopted(
    app, make_app, settings, record, content
):
    run(app, "init-db")
    record.write_text(content)
    assert load({"DATA_DIR": str(settings["DATA_DIR"])})["STORE_DIR"] is None

    refused = run(app, "init-db")

    assert (refused.exit_code, refused.output.count("\n")) == (os.EX_CONFIG, 1)
    assert f"{record} can't be read" in refused.output
    assert run(app, "adopt", "--yes").exit_code == 0
    assert run(app, "init-db").exit_code == 0


@SQLITE
def test_a_folder_in_the_place_of_the_record_is_said_and_left(app, record):
    run(app, "init-db")
    record.unlink()
    record.mkdir()

    for arguments, code in ((["init-db"], os.EX_CONFIG), (["adopt", "--yes"], 1)):
        refused = run(app, *arguments)
        assert (refused.exit_code, refused.output.count("\n")) == (code, 1)
        assert f"{record}" in refused.output
    assert list(record.parent.glob(".belongs_to*")) == []


@SQLITE
@pytest.mark.parametrize("name", ["holders", "roots", "tmp"])
def test_a_server_does_not_start_where_a_file_is_in_the_place_of_a_folder(app, settings, name):
    check_start(app)
    (settings["DATA_DIR"] / name).rmdir()
    (settings["DATA_DIR"] / name).touch()

    with pytest.raises(SystemExit, match=rf"pkgd: DATA_DIR can't be used: .*/{name}'"):
        check_start(app)
