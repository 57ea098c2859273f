"""The task queue: claiming, fenced writes, attempts, and lost tasks."""

import sqlite3
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update
from support import POSTGRESQL, SQLITE

import build_logs
import leases
import task_queue
from downloads import Realised, downloaded
from leases import Lease, LeaseLost
from models import Package, Task, TaskLog, TaskStatus, columns, db, soon
from task_ends import TaskError

REALISED = Realised(store_paths=("/nix/store/a", "/nix/store/a-man"), closure_size=7)
WRONG = TaskError("build_failed", "it did not build", "read the log")


@pytest.fixture
def queue(app):
    """Return a function that queues tasks and returns their ids; the test is in the app context."""
    with app.app_context():

        def queue(count=1):
            packages = [Package(name="made", version=f"{n}.0.0") for n in range(count)]
            db.session.add_all(packages)
            db.session.commit()
            return [task_queue.add(package.id) for package in packages]

        yield queue


def claim(holder="holder", seconds=30):
    return task_queue.claim(holder, seconds)


def succeed(lease):
    lease.succeed(downloaded(lease.subject.package_id, REALISED))


def task(lease):
    """Return the row of a lease's task as it is now."""
    db.session.rollback()
    return db.session.execute(select(*columns(Task)).where(Task.seq == lease.seq)).one()


def expire(lease):
    """Let the lease run out."""
    db.session.execute(update(Task).where(Task.seq == lease.seq).values(lease_until=soon(-1)))
    db.session.commit()


def test_an_empty_queue_gives_no_claim(queue):
    assert claim() is None


def test_the_oldest_task_is_claimed_first(queue):
    ids = queue(3)

    assert [claim().task_id for _ in range(3)] == ids
    assert claim() is None


def test_a_task_is_claimed_once(app, queue):
    queue(40)

    def claim_all(holder):
        with app.app_context():
            return list(iter(lambda: claim(holder), None))

    with ThreadPoolExecutor(8) as threads:
        claims = [lease for some in threads.map(claim_all, map(str, range(8))) for lease in some]

    assert sorted(lease.seq for lease in claims) == list(range(1, 41))


def test_a_claim_names_the_package_the_holder_and_the_end_of_the_lease(queue):
    queue()

    lease = claim("me", 30)

    assert (lease.subject.name, lease.subject.version) == ("made", "0.0.0")
    assert (lease.kind, lease.attempt, lease.holder) == ("download", 1, "me")
    assert soon(20) < task(lease).lease_until < soon(31)
    assert leases.holders() == ["me"]


def test_a_renewal_shows_progress_and_extends_the_lease(queue):
    queue()
    lease = claim(seconds=5)

    assert lease.renew(60, done=1, expected=4, phase="building") is False
    db.session.commit()

    row = task(lease)
    assert (row.done, row.expected, row.phase) == (1, 4, "building")
    assert row.lease_until > soon(50)


def test_a_renewal_reports_a_requested_cancel(queue):
    (task_id,) = queue()
    lease = claim()
    assert lease.is_cancel_requested() is False

    assert task_queue.request_cancel(task_id)

    assert lease.is_cancel_requested() is True
    assert lease.renew(60, done=0, expected=0, phase="building") is True
    assert task(lease).status == TaskStatus.RUNNING


def test_a_success_makes_the_package_downloaded(queue):
    queue()
    lease = claim()

    succeed(lease)

    package = db.session.get(Package, lease.subject.package_id)
    assert (task(lease).status, package.status) == ("succeeded", "downloaded")
    assert (package.store_path, package.closure_size) == ("/nix/store/a", 7)
    assert package.store_paths == ["/nix/store/a", "/nix/store/a-man"]


def test_a_failure_is_stored_with_its_reason(queue):
    queue()
    lease = claim()

    lease.fail(WRONG)

    row = task(lease)
    assert (row.status, row.error_code, row.error_message, row.error_hint) == (
        *("failed", "build_failed"),
        *("it did not build", "read the log"),
    )
    assert (row.lease_holder, row.lease_until) == (None, None)


def test_a_requeued_attempt_does_not_count(queue):
    queue()
    claim().requeue()

    lease = claim()

    assert lease.attempt == 1
    assert task(lease).lease_holder == "holder"


def test_a_retried_attempt_counts_and_the_third_one_fails(queue):
    queue()
    for attempt in (1, 2, 3):
        lease = claim()
        assert lease.attempt == attempt
        lease.retry(WRONG, 0)

    assert claim() is None
    assert (task(lease).status, task(lease).error_code) == ("failed", WRONG.code)


def test_a_retried_task_waits_for_its_time_and_shows_why(queue):
    queue(2)
    lease = claim()

    lease.retry(WRONG, 60)
    task_queue.explain_wait(lambda: "the disk is full")

    other = claim()
    assert other.seq != lease.seq
    assert claim() is None
    row = task(lease)
    assert (row.status, row.attempt) == ("queued", 1)
    assert row.waiting.startswith("it did not build; attempt 2 follows at ")


@pytest.mark.parametrize(
    "write",
    [
        lambda lease: lease.renew(30, done=0, expected=0, phase="building"),
        lambda lease: succeed(lease),
        lambda lease: lease.fail(WRONG),
        lambda lease: lease.cancel(),
        lambda lease: lease.requeue(),
        lambda lease: lease.retry(WRONG, 0),
        lambda lease: lease.is_cancel_requested(),
    ],
)
def test_a_worker_that_lost_its_lease_writes_nothing(queue, write):
    queue()
    lost = claim("first")
    expire(lost)
    leases.reap()
    kept = claim("second")
    before = task(kept)

    with pytest.raises(LeaseLost):
        write(lost)

    assert task(kept) == before
    assert db.session.get(Package, kept.subject.package_id).status == "created"


def test_a_task_whose_lease_ran_out_is_queued_again(queue):
    queue()
    lease = claim()
    assert leases.reap() == 0

    expire(lease)

    assert leases.reap() == 1
    assert (task(lease).status, task(lease).lease_holder) == ("queued", None)
    assert claim("other").attempt == 2


def test_a_task_that_was_lost_three_times_fails(queue):
    queue()
    for _ in range(3):
        lease = claim()
        expire(lease)
        leases.reap()

    row = task(lease)
    assert (row.status, row.error_code) == ("failed", "lost")
    assert "3 attempts" in row.error_message
    assert row.finished_at is not None


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_lost_task_with_a_requested_cancel_is_cancelled(queue, attempts):
    (task_id,) = queue()
    for _ in range(attempts - 1):
        claim().retry(WRONG, 0)
    lease = claim()
    task_queue.request_cancel(task_id)
    expire(lease)

    leases.reap()

    assert (task(lease).status, task(lease).error_code) == ("cancelled", None)


@pytest.mark.parametrize("put_back", [Lease.requeue, lambda lease: lease.retry(WRONG, 9)])
def test_a_task_with_a_requested_cancel_is_cancelled_instead_of_requeued(queue, put_back):
    (task_id,) = queue()
    lease = claim()
    task_queue.request_cancel(task_id)

    put_back(lease)

    row = task(lease)
    assert (row.status, row.lease_holder) == ("cancelled", None)
    assert row.finished_at is not None
    assert claim() is None


def test_a_dead_holders_task_is_queued_before_its_lease_runs_out(queue):
    queue(2)
    dead, alive = claim("dead"), claim("alive")

    assert leases.reap(["dead"]) == 1

    assert (task(dead).status, task(alive).status) == ("queued", "running")


def test_a_package_has_one_live_task(queue):
    queue()

    assert task_queue.add(1) is None

    claim().fail(WRONG)
    assert task_queue.add(1) is not None


def test_only_a_created_package_is_queued(queue):
    queue()
    succeed(claim())

    assert task_queue.add(1) is None
    assert task_queue.add(99) is None


def test_a_success_leaves_an_activated_package_as_it_is(queue):
    queue()
    lease = claim()
    db.session.execute(update(Package).values(status="activated", store_path="/nix/store/b"))
    db.session.commit()

    succeed(lease)

    package = db.session.get(Package, lease.subject.package_id)
    assert (task(lease).status, package.status) == ("succeeded", "activated")
    assert package.store_path == "/nix/store/b"


def test_a_task_that_ended_can_not_be_cancelled(queue):
    (task_id,) = queue()
    lease = claim()
    lease.fail(WRONG)

    assert task_queue.request_cancel(task_id) is False

    assert (task(lease).status, task(lease).cancel_requested) == ("failed", False)


def test_a_claim_clears_what_the_attempt_before_has_shown(queue):
    queue()
    lease = claim()
    lease.renew(30, done=1, expected=4, phase="building")
    lease.requeue()
    task_queue.explain_wait(lambda: "no room")

    again = task(claim())

    assert (again.done, again.expected, again.phase, again.waiting) == (0, 0, None, None)


def test_a_piece_of_log_replaces_what_is_stored_from_its_start_on(queue):
    queue()
    lease = claim()
    for start, data in [(0, b"one "), (4, b"tw"), (4, b"two ")]:
        build_logs.append(lease.seq, lease.attempt, start, data)
        db.session.commit()

    rows = db.session.execute(select(TaskLog.start, TaskLog.data).order_by(TaskLog.start))
    assert list(map(tuple, rows)) == [(0, b"one "), (4, b"two ")]


def test_the_reason_of_a_wait_is_on_the_queued_tasks_until_it_is_removed(queue):
    queue(3)
    claim()

    for reason in ("no room", "no room", None):
        task_queue.explain_wait(lambda reason=reason: reason)
        waiting = db.session.scalars(select(Task.waiting).order_by(Task.seq)).all()
        assert waiting == [None, reason, reason]


def test_live_tasks_are_those_queued_or_running(queue):
    queued, running, ended = map(str, queue(3))
    ids = [queued, running, ended]
    task_queue.request_cancel(uuid.UUID(ended))
    claim()

    assert task_queue.live([*ids, str(uuid.uuid4())]) == {queued, running}
    assert task_queue.live([]) == set()


# --- Races ---


@POSTGRESQL
def test_of_two_requests_to_queue_a_package_at_once_one_does(app, add_packages, race):
    add_packages(1)

    first, second = race(*[lambda: task_queue.add(1)] * 2)

    assert (first is not None, second) == (True, None)


@POSTGRESQL
def test_a_cancel_of_a_task_that_is_claimed_meanwhile_reaches_its_worker(app, queue, race):
    (task_id,) = queue()

    lease, is_cancelled = race(claim, lambda: task_queue.request_cancel(task_id))

    assert is_cancelled is True
    assert lease.is_cancel_requested() is True
    assert task(lease).status == "running"


@POSTGRESQL
def test_a_worker_whose_lease_is_reaped_meanwhile_writes_nothing(app, queue, race):
    queue()
    lease = claim()
    expire(lease)

    def fail():
        with pytest.raises(LeaseLost):
            lease.fail(WRONG)

    assert race(leases.reap, fail) == (1, None)

    assert (task(lease).status, task(lease).error_code) == ("queued", None)


@POSTGRESQL
def test_a_lease_that_is_renewed_meanwhile_is_not_reaped(app, queue, race):
    queue()
    lease = claim()
    expire(lease)

    def renew():
        lease.renew(60, done=0, expected=0, phase="building")
        db.session.commit()

    assert race(renew, leases.reap) == (None, 0)

    assert (task(lease).status, task(lease).lease_holder) == ("running", "holder")


@SQLITE
def test_a_look_at_an_empty_queue_needs_no_write_lock(queue, database_url):
    with sqlite3.connect(database_url.removeprefix("sqlite:///")) as other:
        other.execute("BEGIN IMMEDIATE")

        assert claim() is None
        assert leases.reap() == 0
        task_queue.explain_wait(lambda: "no room")
        other.rollback()
    other.close()
