"""Looking ahead: one evaluation resolves what waits in the queue, too."""

from pathlib import Path

import pytest
from support import SQLITE, until

import nix
import services
from catalogs import lookahead

pytestmark = pytest.mark.usefixtures("recipes")


@pytest.fixture
def evaluations(recipes, replace_program, tmp_path):
    """Return a function that returns which evaluations there were since the call before."""
    record = tmp_path / "evaluations"
    script = f'case "$*" in *--eval*) echo "$*" >>{record} ;; esac; exec $real "$@"'
    replace_program("nix-instantiate", script)

    def evaluations():
        said = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return [line.rpartition(" ")[2] for line in said]

    return evaluations


@pytest.fixture
def numbers_evaluated(evaluations, tmp_path):
    """Return a function that returns how many packages each evaluation has resolved."""
    return lambda: [
        line.count('"version":') for line in (tmp_path / "evaluations").read_text().splitlines()
    ]


@pytest.fixture
def queued(recipes, schedule):
    """Return a function that queues downloads of new packages, and returns their tasks' ids."""

    def queued(*names):
        return [schedule(recipes.add(name, f"echo {name} >$out"), "1.0.0") for name in names]

    return queued


@pytest.fixture
def statuses(get_task):
    """Return a function that returns the statuses of tasks."""
    return lambda ids: [get_task(one)["status"] for one in ids]


def test_what_waits_is_resolved_by_the_evaluation_for_what_is_due(
    evaluations, queued, work, statuses, client, get_task
):
    ids = queued("one", "two", "three")

    assert work() == 3

    assert evaluations() == ["found"]
    assert statuses(ids) == ["succeeded"] * 3
    packages = [client.get(f"/api/v1/package/{get_task(one)['package_id']}").json for one in ids]
    assert [Path(one["store_path"]).read_text() for one in packages] == [
        "one\n",
        "two\n",
        "three\n",
    ]


def test_what_waits_alone_is_evaluated_as_ever(evaluations, queued, work):
    queued("alone")

    assert work() == 1

    assert evaluations() == ["answer"]


def test_as_many_as_eight_are_resolved_together(evaluations, queued, work):
    queued(*(f"many{number}" for number in range(10)))

    assert work() == 10

    assert evaluations() == ["found", "found"]


@pytest.mark.parametrize(
    ("short_seconds", "numbers"), [(60, [2, 4]), (0, [2, 2, 2])], ids=["short", "long"]
)
def test_more_are_resolved_together_while_evaluations_and_builds_are_short(
    numbers_evaluated, queued, work, monkeypatch, short_seconds, numbers
):
    monkeypatch.setattr(lookahead, "TOGETHER", 2)
    monkeypatch.setattr(lookahead, "TOGETHER_IF_SHORT", 4)
    monkeypatch.setattr(lookahead, "SHORT_SECONDS", short_seconds)
    queued(*(f"many{number}" for number in range(6)))

    assert work() == 6

    assert numbers_evaluated() == numbers


def test_what_was_found_long_ago_is_evaluated_again(evaluations, queued, work, monkeypatch):
    monkeypatch.setattr(lookahead, "FRESH_SECONDS", 0)
    queued("first", "second")

    assert work() == 2

    assert evaluations() == ["found", "answer"]


@SQLITE
def test_a_derivation_that_was_deleted_meanwhile_is_evaluated_again(
    evaluations, queued, pool, work, statuses, app
):
    ids = queued("kept", "deleted")
    assert pool.run_one()
    store = services.get(nix.Store, app)
    (drv_path,) = store.directory.glob("*-deleted-1.0.0.drv")
    nix.run(["nix-store", "--delete", str(drv_path)], environ=store.environ, seconds=60)
    assert not drv_path.exists()

    assert work() == 1

    assert evaluations() == ["found", "answer"]
    assert statuses(ids) == ["succeeded"] * 2


def test_what_is_not_there_fails_by_itself_with_its_own_reason(
    evaluations, queued, schedule, work, statuses, get_task
):
    (good,) = queued("good")
    bad = schedule("nosuchthing", "1.0.0")
    (other,) = queued("other")

    assert work() == 3

    assert statuses([good, other]) == ["succeeded"] * 2
    assert get_task(bad)["error"]["code"] == "name_unknown"
    assert evaluations()[:2] == ["found", "answer"]


def test_after_an_evaluation_that_fails_each_is_evaluated_alone(
    evaluations, recipes, queued, work, statuses, schedule, get_task
):
    (recipes.catalog / "default.nix").write_text(
        f"let rest = {(recipes.catalog / 'default.nix').read_text()}; in rest // "
        '{ aborts = rest.good // { outPath = abort "no"; drvPath = abort "no"; }; }'
    )
    (good,) = queued("good")
    bad = schedule("aborts", "1.0.0")
    (other,) = queued("other")

    assert work() == 3

    assert statuses([good, bad, other]) == ["succeeded", "failed", "succeeded"]
    assert "no" in get_task(bad)["error"]["message"]
    assert evaluations()[:2] == ["found", "answer"]
    assert evaluations() == []


def test_what_another_thread_resolves_is_not_resolved_too(
    evaluations, programs, queued, pool, start_step, work, tmp_path, statuses
):
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    wait = f'case "$*" in *found) touch {begun}; until [ -e {gate} ]; do sleep 0.02; done ;; esac'
    program = programs / "nix-instantiate"
    program.write_text(program.read_text().replace("exec", f"{wait}; exec"))
    ids = queued("held1", "held2", "held3")
    thread = start_step()
    until(begun.exists)

    assert pool.run_one()
    gate.touch()
    thread.join(20)

    assert work() == 1
    assert statuses(ids) == ["succeeded"] * 3
    assert sorted(evaluations()) == ["answer", "found"]
