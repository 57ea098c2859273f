"""The queue: claims, fences, attempts, and tasks whose workers are gone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

import task_queue
import worker
from models import Package, Task, TaskStatus, db, soon
from task_queue import LeaseLost, Realised, TaskError
from worker import Holder

REALISED = Realised(
    catalog="/catalog",
    attr="hello",
    drv_path="/nix/store/a.drv",
    store_paths=("/nix/store/a", "/nix/store/a-man"),
    closure_size=7,
)
WRONG = TaskError("build_failed", "it did not build", "read the log")


@pytest.fixture
def queue(app):
    """Return a function that queues so many tasks, and keep the application's context open."""
    with app.app_context():

        def queue(count=1):
            packages = [Package(name="made", version=f"{n}.0.0") for n in range(count)]
            db.session.add_all(packages)
            db.session.commit()
            return [task_queue.add(package.id) for package in packages]

        yield queue


def claim(holder="holder", seconds=30):
    return task_queue.claim(holder, seconds)


def task(lease):
    db.session.rollback()
    return db.session.execute(select(Task.__table__).where(Task.seq == lease.seq)).one()


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


def test_a_claim_says_what_to_do_and_until_when(queue):
    queue()

    lease = claim("me", 30)

    assert (lease.name, lease.version, lease.attempt, lease.holder) == ("made", "0.0.0", 1, "me")
    assert soon(20) < task(lease).lease_until < soon(31)
    assert task_queue.holders() == ["me"]


def test_a_renewal_shows_progress_and_lengthens_the_lease(queue):
    queue()
    lease = claim(seconds=5)

    assert lease.renew(60, done=1, expected=4, phase="building") is False
    db.session.commit()

    row = task(lease)
    assert (row.done, row.expected, row.phase) == (1, 4, "building")
    assert row.lease_until > soon(50)


def test_a_renewal_tells_of_a_cancel(queue):
    (task_id,) = queue()
    lease = claim()
    assert lease.is_cancel_requested() is False

    assert task_queue.request_cancel(task_id)

    assert lease.is_cancel_requested() is True
    assert lease.renew(60, done=0, expected=0, phase="building") is True
    assert task(lease).status == TaskStatus.RUNNING


def test_success_is_the_packages_too(queue):
    queue()
    lease = claim()

    lease.succeed(REALISED)

    package = db.session.get(Package, lease.package_id)
    assert (task(lease).status, package.status) == ("succeeded", "downloaded")
    assert (package.store_path, package.closure_size) == ("/nix/store/a", 7)
    assert package.store_paths == ["/nix/store/a", "/nix/store/a-man"]


def test_failure_keeps_its_reason(queue):
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

    assert claim().attempt == 1


def test_a_retried_attempt_counts_and_the_last_one_fails(queue):
    queue()
    for attempt in (1, 2, 3):
        lease = claim()
        assert lease.attempt == attempt
        lease.retry()

    assert claim() is None
    assert (task(lease).status, task(lease).error_code) == ("failed", "lost")


@pytest.mark.parametrize(
    "write",
    [
        lambda lease: lease.renew(30, done=0, expected=0, phase="building"),
        lambda lease: lease.succeed(REALISED),
        lambda lease: lease.fail(WRONG),
        lambda lease: lease.cancel(),
        lambda lease: lease.requeue(),
        lambda lease: lease.retry(),
        lambda lease: lease.is_cancel_requested(),
    ],
)
def test_who_lost_the_lease_writes_nothing(queue, write):
    queue()
    lost = claim("first")
    expire(lost)
    task_queue.reap()
    kept = claim("second")
    before = task(kept)

    with pytest.raises(LeaseLost):
        write(lost)

    assert task(kept) == before
    assert db.session.get(Package, kept.package_id).status == "created"


def test_a_task_whose_lease_ran_out_is_queued_again(queue):
    queue()
    lease = claim()
    assert task_queue.reap() == 0

    expire(lease)

    assert task_queue.reap() == 1
    assert (task(lease).status, task(lease).lease_holder) == ("queued", None)
    assert claim("other").attempt == 2


def test_a_task_that_was_lost_three_times_fails(queue):
    queue()
    for _ in range(3):
        lease = claim()
        expire(lease)
        task_queue.reap()

    row = task(lease)
    assert (row.status, row.error_code) == ("failed", "lost")
    assert "3 attempts" in row.error_message
    assert row.finished_at is not None


def test_a_lost_task_that_was_to_be_cancelled_is_cancelled(queue):
    (task_id,) = queue()
    lease = claim()
    task_queue.request_cancel(task_id)
    expire(lease)

    task_queue.reap()

    assert task(lease).status == "cancelled"


def test_a_requeue_carries_out_a_cancel_that_came_meanwhile(queue):
    (task_id,) = queue()
    lease = claim()
    task_queue.request_cancel(task_id)

    lease.requeue()

    assert task(lease).status == "cancelled"
    assert task(lease).finished_at is not None


def test_a_dead_holders_task_is_queued_before_its_lease_runs_out(queue):
    queue(2)
    dead, alive = claim("dead"), claim("alive")

    assert task_queue.reap(["dead"]) == 1

    assert (task(dead).status, task(alive).status) == ("queued", "running")


def test_a_package_has_one_live_task(queue):
    queue()

    assert task_queue.add(1) is None

    claim().fail(WRONG)
    assert task_queue.add(1) is not None


def test_what_is_not_created_is_not_queued(queue):
    queue()
    claim().succeed(REALISED)

    assert task_queue.add(1) is None
    assert task_queue.add(99) is None


def test_a_holder_is_dead_once_nobody_locks_its_file(tmp_path):
    holder = Holder(tmp_path)
    assert worker.dead_holders(tmp_path, [holder.id]) == []

    holder._file.close()

    assert worker.dead_holders(tmp_path, [holder.id]) == [holder.id]


def test_a_holder_of_another_machine_is_not_known_to_be_dead(tmp_path):
    assert worker.dead_holders(tmp_path, ["somebody"]) == []


def test_the_files_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead, alive = Holder(tmp_path), Holder(tmp_path)
    dead._file.close()

    worker.remove_dead_holders(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [alive.id]
    alive.release()
    assert list(tmp_path.iterdir()) == []
