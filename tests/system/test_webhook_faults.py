"""What events and webhooks survive: killed processes under load, and a receiver that fails."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import figures
import pytest
import requests
from receiver import Receiver, answer
from service import LIVE
from support import EITHER, until

CLIENTS = 3
PACKAGES = [(f"tool-{n}", "1.0.0") for n in range(4)] + [("app", "1.0.0"), ("app", "2.0.0")]
PROFILES = ("default", "team")
ENDS = {"task.succeeded", "task.failed", "task.cancelled"}


class Unreliable(Receiver):
    """A receiver that fails every other time, at random, and keeps what it has accepted."""

    def __init__(self):
        super().__init__()
        self.accepted, self.random = [], random.Random(19)
        self.answer = self.accept

    def accept(self, message):
        """Answer 204 to what is kept, and 500 to what is not."""
        is_kept = self.random.random() < 0.5
        if is_kept:
            self.accepted.append(message.seq)
        yield answer(204 if is_kept else 500)


@pytest.fixture
def receiver():
    """A receiver that fails half the time."""
    with Unreliable() as receiver:
        yield receiver


@EITHER
def test_kills_under_load_lose_no_event_and_repeat_none_out_of_order(
    service, database_url, receiver
):
    service.settings |= {"WEBHOOK_PRIVATE": "127.0.0.1", "WEBHOOK_RETRY_SECONDS": 1}
    service.start().sign_in()
    added = service.post("webhooks", json={"url": receiver.url})

    for number in range(figures.ROUNDS):
        over_a_kill(service, random.Random(number))
    until(lambda: is_quiet(service), 120)
    until(lambda: is_told(service, added["id"]), 120 + 10 * figures.ROUNDS)

    events = listed(service, "events")
    expected = [event["seq"] for event in events if event["seq"] > added["delivered_seq"]]
    assert list(dict.fromkeys(receiver.accepted)) == expected
    assert_events_tell_what_the_tables_hold(service, events)
    keep(database_url, receiver, expected)


def keep(database_url, receiver, expected):
    """Keep what came of it for README."""
    sent, twice = len(receiver.messages), len(receiver.accepted) - len(expected)
    figures.keep(
        "`kill -9` of everything under load, with a webhook whose receiver fails half the time",
        database_url,
        figures.rounds(f"{len(expected)} events"),
        f"each event delivered, in order, in {sent} attempts, {twice} times again;"
        " no event without its change, no change without its event",
    )


def over_a_kill(service, moment):
    """Kill everything while clients change things, and start again."""
    over, enough = threading.Event(), newest(service) + 5
    with ThreadPoolExecutor(CLIENTS) as threads:
        for _ in range(CLIENTS):
            threads.submit(make_changes, service, random.Random(moment.random()), over)
        until(lambda: newest(service) >= enough)
        time.sleep(moment.uniform(0, 1))  # the moment is what varies
        service.kill()
        over.set()
    service.start()


def make_changes(service, choice, over):
    """Make one change after another until the event `over`; a killed service answers none."""
    while not over.is_set():
        with suppress(requests.RequestException):
            make_change(service, choice)


def make_change(service, choice):
    """Make a change of a package, a profile or a token; some are refused."""
    name, version = choice.choice(PACKAGES)
    wanted = {"name": name, "version": version}
    packages = service.request("GET", "packages").json() or [{"id": 1}]
    own = f"package/{choice.choice(packages)['id']}"
    what = choice.randrange(8)
    if what == 0:
        minted = service.request("POST", "tokens", json={"name": "made"})
        if choice.random() < 0.5:
            service.request("DELETE", f"token/{minted.json()['id']}")
    elif what == 1:
        service.request("PUT", "profile/team", json={"packages": [wanted]})
    elif what == 2:
        service.request("DELETE", own)
    elif what in (3, 4):
        service.request("POST", "packages", json=wanted)
    else:
        deed = ("download", "activate", "deactivate")[what - 5]
        service.request("POST", f"{own}/{deed}")


def is_quiet(service):
    """Tell whether all tasks have ended."""
    return not any(service.get(f"tasks?status={status}") for status in LIVE)


def is_told(service, webhook_id):
    """Tell whether a webhook has got all; one that failed is tried again at once."""
    shown = service.get(f"webhook/{webhook_id}")
    if shown["state"] == "failing":
        service.post(f"webhook/{webhook_id}/enable")
    return shown["delivered_seq"] == newest(service)


def newest(service):
    """Return the number of the newest event."""
    return service.get("events?newest_first=true&limit=1")[0]["seq"]


def listed(service, path):
    """Return all of a list."""
    rows, answer = [], service.request("GET", f"{path}?limit=1000")
    rows += answer.json()
    while "next" in answer.links:
        answer = service.request("GET", answer.links["next"]["url"].partition("/api/v1/")[2])
        rows += answer.json()
    return rows


def assert_events_tell_what_the_tables_hold(service, events):
    """Check that each change has its one event, and each event its change."""
    count = Counter((event["type"], event["subject"]["id"]) for event in events)
    assert_told(service, "packages", count, "package.registered", "package.removed")
    assert_told(service, "tokens", count, "token.minted", "token.revoked")
    assert_tasks_are_told(service, count, events)
    for profile in PROFILES:
        changed = ("profile.changed", profile)
        told = [one for one in events if (one["type"], one["subject"]["name"]) == changed]
        assert len(told) == changes_of(service, profile)


def assert_told(service, what, count, come, gone):
    """Check that what has come and not gone, by the events, is what there is; each once."""
    added, removed = ({id_ for kind, id_ in count if kind == one} for one in (come, gone))
    assert added - removed == {row["id"] for row in listed(service, what)}
    assert {number for (kind, _), number in count.items() if kind in (come, gone)} <= {1}


def assert_tasks_are_told(service, count, events):
    """Check that each task was told to be queued and to end once; those of removed packages, too.

    They are gone with their packages.
    """
    tasks = {task["id"]: task for task in listed(service, "tasks")}
    for task_id, task in tasks.items():
        ends = [kind for kind in ENDS for _ in range(count[kind, task_id])]
        assert (count["task.queued", task_id], ends) == (1, [f"task.{task['status']}"])
    removed = {id_ for kind, id_ in count if kind == "package.removed"}
    gone = [e for e in events if e["type"] in ENDS and e["subject"]["id"] not in tasks]
    assert {event["data"]["package"]["id"] for event in gone} <= removed


def changes_of(service, profile):
    """Return how often a profile has changed, by its generations; a profile may not be there."""
    answer = service.request("GET", f"generations?profile={profile}")
    return sum(len(row["changes"]) for row in answer.json()) if answer.ok else 0
