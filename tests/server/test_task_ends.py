"""Counts of the tasks that have ended: exact, and kept when the tasks are deleted."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, select, update
from support import POSTGRESQL, SQLITE

import leases
import task_ends
import task_queue
from models import Package, Task, TaskStatus, columns, db, soon
from task_ends import TaskEnd, TaskError

WRONG = TaskError("build_failed", "it did not build", "read the log")


@pytest.fixture
def claimed(app):
    """Return a function that queues and claims tasks; the test is in the app context."""
    with app.app_context():

        def claimed(count=1, holder="holder"):
            packages = [Package(name="made", version=f"{n}.0.0") for n in range(count)]
            db.session.add_all(packages)
            db.session.commit()
            for package in packages:
                task_queue.add(package.id)
            return [task_queue.claim(holder, 30) for _ in packages]

        yield claimed


def lose(lease, **values):
    """Let a lease run out."""
    changed = update(Task).where(Task.seq == lease.seq)
    db.session.execute(changed.values(lease_until=soon(-1), **values))
    db.session.commit()


def counts():
    """Return how many tasks have ended, by status and code."""
    db.session.rollback()
    rows = db.session.execute(select(*columns(TaskEnd)))
    return {(row.status, row.code): row.tasks for row in rows}


def test_each_end_is_counted_by_its_status_and_code(claimed):
    first, second, third, fourth = claimed(4)

    first.fail(WRONG)
    second.fail(WRONG)
    third.cancel()
    fourth.succeed()

    assert counts() == {("failed", "build_failed"): 2, ("cancelled", ""): 1, ("succeeded", ""): 1}


@SQLITE
def test_counts_stay_when_the_tasks_are_deleted(claimed):
    claimed()[0].succeed()

    db.session.execute(delete(Task))
    db.session.commit()

    assert counts() == {("succeeded", ""): 1}


@SQLITE
def test_a_clock_that_is_set_back_takes_nothing_from_the_sum_of_times(claimed):
    (lease,) = claimed()
    started = update(Task).where(Task.seq == lease.seq).values(started_at=soon(3600))
    db.session.execute(started)
    db.session.commit()

    lease.succeed()

    assert db.session.scalar(select(TaskEnd.seconds)) == 0


def test_attempts_and_the_time_of_the_last_one_are_added_up(claimed):
    for lease in claimed(2):
        started = update(Task).where(Task.seq == lease.seq).values(started_at=soon(-100))
        db.session.execute(started)
        lease.succeed()

    row = db.session.execute(select(*columns(TaskEnd))).one()
    assert (row.kind, row.tasks, row.attempts) == ("download", 2, 2)
    assert 200 <= row.seconds < 230


@SQLITE
def test_an_end_that_is_rolled_back_is_not_counted(claimed):
    (lease,) = claimed()
    task_ends.end(Task.seq == lease.seq, status=TaskStatus.SUCCEEDED)
    db.session.rollback()
    db.session.commit()

    assert counts() == {}


@SQLITE
def test_a_task_that_is_put_back_is_not_counted(claimed):
    first, second = claimed(2)
    first.requeue()
    second.retry(WRONG, 1)

    assert counts() == {}


@SQLITE
def test_a_task_that_is_lost_is_counted_and_named_in_the_log(claimed, caplog):
    first, second = claimed(2)
    lose(first, attempt=leases.MAX_ATTEMPTS)
    lose(second, cancel_requested=True)

    assert leases.reap() == 2

    assert counts() == {("failed", "lost"): 1, ("cancelled", ""): 1}
    (line,) = [record.getMessage() for record in caplog.records if record.name == "pkgd.queue"]
    assert line.startswith(f"task {first.task_id}: failed: lost, the worker was gone")
    assert line.endswith("(made 0.0.0)")


@POSTGRESQL
def test_ends_at_once_are_all_counted(claimed, race):
    first, second = claimed(2)

    race(lambda: first.fail(WRONG), lambda: second.fail(WRONG))

    assert counts() == {("failed", "build_failed"): 2}


@POSTGRESQL
def test_an_end_that_is_not_committed_holds_up_no_other(app, claimed):
    first, second = claimed(2)
    task_ends.end(Task.seq == first.seq, status=TaskStatus.CANCELLED)

    def cancel():
        with app.app_context():
            second.cancel()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(cancel).result(timeout=20)
    db.session.commit()

    assert counts() == {("cancelled", ""): 2}


def test_ends_are_scraped_as_counters_that_begin_at_0(scrape, schedule, pool):
    schedule("nosuch", "1.0.0")
    schedule()
    before = scrape()

    while pool.run_one():
        pass

    after = scrape()
    for name in ("pkgd_task_ends_total", "pkgd_task_attempts_total"):
        for end in (("name_unknown", "download", "failed"), ("none", "download", "succeeded")):
            assert (before[name, *end], after[name, *end]) == (0, 1)
    assert after["pkgd_task_seconds_total", "none", "download", "succeeded"] > 0
    assert after["pkgd_task_ends_total", "lost", "index", "failed"] == 0
