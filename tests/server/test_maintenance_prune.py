"""Pruning: old tasks are deleted with their logs, the newest of each package is kept."""

import pytest
from sqlalchemy import func, select, update

import maintenance
from event_log import Event
from models import Package, Task, TaskKind, TaskLog, TaskStatus, db, soon
from profiles.models import AppliedPackage
from webhooks.models import Webhook

DAY = 86_400


@pytest.fixture
def ended(app):
    """Return a function that adds a task that ended some days ago, with a log; returns its seq."""
    with app.app_context():
        db.session.add(Package(name="made", version="1.0.0"))
        db.session.commit()

        def ended(days, status=TaskStatus.FAILED, package_id=1):
            task = Task(package_id=package_id, status=status, finished_at=soon(-days * DAY))
            db.session.add(task)
            db.session.flush()
            db.session.add(TaskLog(task_seq=task.seq, attempt=1, start=0, data=b"line\n"))
            db.session.commit()
            return task.seq

        yield ended


def remaining():
    """Return the seqs of all tasks."""
    return list(db.session.scalars(select(Task.seq).order_by(Task.seq)))


def test_old_tasks_are_pruned_with_their_logs(ended):
    ended(31)
    kept = [ended(29), ended(1)]

    assert maintenance.prunable(30) == 1
    assert maintenance.prune(30) == 1

    assert remaining() == kept
    assert db.session.scalar(select(func.count()).select_from(TaskLog)) == 2


def test_the_newest_task_of_a_package_is_kept(ended):
    ended(400)
    newest = ended(399)

    assert maintenance.prune(30) == 1

    assert remaining() == [newest]


def test_the_task_that_downloaded_a_package_is_kept(ended):
    succeeded = ended(400, TaskStatus.SUCCEEDED)
    later = [ended(399), ended(1)]

    assert maintenance.prune(30) == 1

    assert remaining() == [succeeded, later[1]]


def test_a_live_task_is_never_pruned(ended):
    queued = ended(0, TaskStatus.QUEUED)
    db.session.execute(update(Task).values(created_at=soon(-400 * DAY), finished_at=None))
    db.session.commit()

    assert maintenance.prune(30) == 0
    assert remaining() == [queued]


def test_many_tasks_are_pruned_in_batches(ended, monkeypatch):
    monkeypatch.setattr(maintenance, "PRUNE_BATCH", 2)
    for _ in range(6):
        ended(40)

    assert maintenance.prune(30) == 5
    assert remaining() == [6]


def test_the_pool_prunes_when_it_starts(ended, pool):
    ended(31)
    newest = ended(31)

    pool.maintain_once()

    db.session.rollback()
    assert remaining() == [newest]


def test_the_command_prune_prints_the_number_of_tasks(app, ended):
    ended(31)
    ended(31)
    command = app.test_cli_runner()

    would = "1 tasks would be pruned\n0 events would be pruned\n"
    assert command.invoke(args=["prune", "--dry-run"]).output == would
    assert command.invoke(args=["prune"]).output == "1 tasks pruned\n0 events pruned\n"
    assert command.invoke(args=["prune"]).output == "0 tasks pruned\n0 events pruned\n"


def test_the_pages_of_a_list_go_on_while_tasks_are_pruned(ended, client):
    _, kept, newest = ended(31), ended(3), ended(1)
    first = client.get("/api/v1/tasks?limit=1")
    with_old = client.get("/api/v1/tasks?limit=2")
    db.session.execute(update(Task).where(Task.seq == kept).values(finished_at=soon(-40 * DAY)))
    db.session.commit()
    assert maintenance.prune(30) == 2
    assert remaining() == [newest]

    for page in (first, with_old):
        following = client.get(page.headers["Link"].split(">")[0].lstrip("<"))
        assert (following.status_code, following.json) == (200, [])


def test_old_applies_are_pruned_with_their_sets(app, client, applied):
    applied("hello 2.12.1")
    with app.app_context():
        db.session.execute(update(Task).values(finished_at=soon(-31 * DAY)))
        db.session.commit()

        assert maintenance.prune(30) == 1

        assert db.session.scalars(select(Task.kind)).all() == [TaskKind.DOWNLOAD]
        assert db.session.scalar(select(func.count()).select_from(AppliedPackage)) == 0
    assert client.get("/api/v1/profile/team").json["packages"][0]["name"] == "hello"


# --- Events ---


@pytest.fixture
def happened(app):
    """Return a function that adds events of some days ago; the test is in the app context."""
    with app.app_context():

        def happened(*days):
            about = {"type": "token.minted", "by": {}, "subject": {}, "data": {}}
            db.session.add_all(Event(at=soon(-one * DAY), **about) for one in days)
            db.session.commit()

        yield happened


def left():
    """Return the numbers of all events."""
    return list(db.session.scalars(select(Event.seq).order_by(Event.seq)))


def add_webhook(cursor, **more):
    """Add a webhook that has got the events up to this number."""
    webhook = Webhook(url="https://x/", types=[], secret="s", cursor=cursor, **more)
    db.session.add(webhook)
    db.session.commit()


def test_old_events_are_pruned_in_batches(happened, monkeypatch):
    monkeypatch.setattr(maintenance, "PRUNE_BATCH", 2)
    happened(95, 94, 93, 92, 91, 89, 1)

    assert maintenance.prunable_events(90) == 5
    assert maintenance.prune_events(90) == 5

    assert left() == [6, 7]


def test_an_event_that_a_webhook_has_not_got_is_kept(happened):
    happened(94, 93, 92, 91)
    add_webhook(3)
    add_webhook(2)
    add_webhook(1, disabled_at=soon(0))

    assert (maintenance.prunable_events(90), maintenance.prune_events(90)) == (2, 2)

    assert left() == [3, 4]


def test_the_pool_prunes_events_when_it_starts(happened, pool):
    happened(91, 89)

    pool.maintain_once()

    db.session.rollback()
    assert left() == [2]
