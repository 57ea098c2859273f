"""The command of events: what happened, and what happens."""

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from itertools import islice
from typing import Any

import click

from pkgctl.client import PAGE_SIZE, JsonObject
from pkgctl.errors import CommandError, ExitCode, one_line
from pkgctl.options import CommandContext, common_options, wait_options
from pkgctl.tables import cell, title, whole_seconds
from pkgctl.waiting import Interrupted, interrupts

LIMIT = 20
WAIT_SECONDS = 10
PAUSE_SECONDS = 0.5  # a server with too many waiting clients answers at once
DONE = {
    "download": "downloaded {what}",
    "index": "indexed {what}",
    "verify": "verified the index of {what}",
    "apply": "applied a set to {what}",
    "publish": "published {what}",
}
WORK = {
    "download": "the download of {what}",
    "index": "the indexing of {what}",
    "verify": "the verification of {what}",
    "apply": "an apply to {what}",
    "publish": "the publishing of {what}",
}
SENTENCES = {
    "package.registered": "registered {name} {version}",
    "package.removed": "removed {name} {version}",
    "task.queued": "queued {work}",
    "task.succeeded": "{done}",
    "task.failed": "had {work} fail: {error}",
    "task.cancelled": "cancelled {work}",
    "profile.changed": "changed the profile {name} to {generation}: {packages} ({reason})",
    "profile.rollout": "set the share of {name} to {percent} % of its machines",
    "profile.removed": "deleted the profile {name}",
    "token.minted": "minted the token {name} ({scope})",
    "token.revoked": "revoked the token {name} ({scope})",
    "catalog.added": "added the catalog {name} ({revision})",
    "catalog.updated": "updated the catalog {name} ({revision})",
    "catalog.removed": "removed the catalog {name}",
    "machine.failed": "had the machine {name} fail: {error}",
    "machine.silent": "has not heard of the machine {name}",
    "machine.removed": "removed the machine {name}",
    "webhook.added": "added the webhook {id} ({url})",
    "webhook.removed": "removed the webhook {id} ({url})",
    "webhook.disabled": "disabled the webhook {id} ({url}): {reason}",
    "webhook.enabled": "enabled the webhook {id} ({url})",
}
TYPES = [*sorted({f"{kind.partition('.')[0]}.*" for kind in SENTENCES}), *SENTENCES]


def _types(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete a type; a server may know more of them."""
    return [kind for kind in TYPES if kind.startswith(incomplete)]


@click.command()
@common_options
@wait_options
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens.")
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    shell_complete=_types,
    help="Only events of this type, such as task.failed, or group, such as token.*; repeatable.",
)
@click.option("--since", metavar="NUMBER", type=click.IntRange(min=0), help="After this event.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    help=f"At most this many, the newest ones.  [default: {LIMIT}, all with --since]",
)
def events(
    context: CommandContext,
    *,
    follow: bool,
    types: Sequence[str],
    since: int | None,
    limit: int | None,
    timeout: float | None,
) -> None:
    """Show what happened, and who did it.

    With --json, a followed event is a line.

    \b
    Examples:
      pkgctl events
      pkgctl events -f --type 'task.*'
      pkgctl events --since 4711 --json
    """
    with context.needs_newer_server("tell what happened"):
        newest = context.client.get("events", limit=1, newest_first="true")
        last = newest[0]["seq"] if newest else 0
        if since is None:
            found = _newest(context, types, limit or LIMIT)
        else:
            listed = context.client.list_all("events", after=since, type=list(types))
            found = list(islice(listed, limit))
    if context.printer.as_json and not follow:
        context.printer.json(found)
        return
    for event in found:
        _show(context, event)
    if follow:
        _follow(context, types, max([last, *(event["seq"] for event in found)]), timeout)


def _newest(context: CommandContext, types: Sequence[str], limit: int) -> list[JsonObject]:
    """Return the newest events, oldest first."""
    query: dict[str, Any] = {"newest_first": "true", "type": list(types)}
    listed = context.client.list_all("events", limit=min(limit, PAGE_SIZE), **query)
    return list(islice(listed, limit))[::-1]


def _follow(
    context: CommandContext, types: Sequence[str], after: int, timeout: float | None
) -> None:
    """Show events as they come, until the time is over or somebody interrupts."""
    client = context.client
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    client.retry_policy = replace(client.retry_policy, deadline=deadline)
    try:
        while (now := time.monotonic()) < deadline:
            interrupts.check()
            wait = min(WAIT_SECONDS, deadline - now)
            for event in client.get("events", after=after, wait=f"{wait:.3f}", type=list(types)):
                _show(context, event)
                after = event["seq"]
            time.sleep(max(0.0, min(now + PAUSE_SECONDS, deadline) - time.monotonic()))
    except KeyboardInterrupt:
        interrupts.clear()
        raise Interrupted(f": {_resume(context, after)}") from None
    raise CommandError("the time to wait is over", ExitCode.TIMED_OUT, _resume(context, after))


def _resume(context: CommandContext, after: int) -> str:
    command = context.command_line("events", "-f", "--since", after)
    return f"go on with: {shlex.join(command)}"


def _show(context: CommandContext, event: JsonObject) -> None:
    """Show an event that is followed by others: as JSON in one line."""
    is_json = context.printer.as_json
    click.echo(json.dumps(event) if is_json else _line(context, event))


def _line(context: CommandContext, event: JsonObject) -> str:
    """Return an event in a line: for a pipe in cells, with its number and the whole time."""
    who, what = cell(_who(event["by"])), cell(sentence(event))
    if context.printer.is_terminal:
        return f"{_moment(event['at'])} {who} {what}"
    number, at = cell(event["seq"]), cell(whole_seconds(event["at"]))
    return "\t".join((at, number, cell(event["type"]), who, what))


def _moment(at: str) -> str:
    """Return a time as it is here, with the day unless that is today."""
    when = datetime.fromisoformat(at).astimezone()
    return when.strftime("%H:%M:%S" if when.date() == date.today() else "%Y-%m-%d %H:%M:%S")


def _who(by: JsonObject) -> str:
    unnamed = {"token": f"token {by['id']}", "service": "pkgd"}
    return str(by["name"] or unnamed.get(by["kind"], by["kind"]))


def sentence(event: JsonObject) -> str:
    """Return what happened, to go on after who did it."""
    subject, data = event["subject"], event["data"]
    template = SENTENCES.get(event["type"])
    if template is None:  # of a newer server
        return f"{event['type']}: {subject['kind']} {subject['name'] or subject['id']}"
    words = {**data, **subject, "name": subject["name"] or subject["id"]}
    words["revision"] = data.get("revision") or "of no known revision"
    words["error"] = _error(data.get("error"))
    if subject["kind"] == "task":
        words |= _words_of_task(subject, data)
    if subject["kind"] == "profile" and data:
        number = data["generation"]
        words["generation"] = "nothing" if number is None else f"generation {number}"
        words["packages"] = _packages(data)
    return template.format(**words)


def _words_of_task(subject: JsonObject, data: JsonObject) -> dict[str, str]:
    what = f"{'the profile ' if data['profile'] else ''}{subject['name']}"
    unknown = f"{data['kind']} of {{what}}"
    return {
        "work": WORK.get(data["kind"], unknown).format(what=what),
        "done": DONE.get(data["kind"], unknown).format(what=what),
    }


def _error(error: JsonObject | str | None) -> str:
    """Return why a task or a machine failed, in a line."""
    if isinstance(error, dict):
        return f"{error['code']}: {one_line(error['message'])}"
    return one_line(error or "no reason is known")


def _packages(data: JsonObject) -> str:
    added = [f"+{title(one)}" for one in data["added"]]
    removed = [f"-{title(one)}" for one in data["removed"]]
    return ", ".join(removed + added) or "the same packages"
