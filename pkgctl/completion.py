"""What a shell completes: names, versions, tasks and more, asked of the server within a moment.

Whatever fails, nothing is said: a message would land in the line that somebody is typing. So would
what a server says, and a shell would execute $(…) in it: only plain words are completed.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any
from urllib.parse import quote

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from pkgctl.client import PAGE_SIZE, Client, JsonObject
from pkgctl.config import ServersFile, choose_server
from pkgctl.errors import CommandError, printable
from pkgctl.tables import age, short_ids, title

LIMIT_SECONDS = 1.5
LISTED = 200
PLAIN = re.compile(r"[\w.+:@/~-]+", re.ASCII)  # nothing that a shell takes for more than a word
OTHER_DOCUMENT = (AttributeError, LookupError, TypeError, ValueError)  # it is not as pkgd's are

# Bash ends a word at @ and hands the pieces over, so the whole line is passed instead; and it
# replaces only what follows the last @, so no more than that is answered.
BASH_SOURCE = r"""%(complete_func)s() {
    local IFS=$'\n' response completion type value
    response=$(env COMP_WORDS="${COMP_LINE:0:$COMP_POINT}" %(complete_var)s=bash_complete "$1")
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("$value")
        fi
    done
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class PkgctlBash(BashComplete):
    """Completion in bash, of words that may hold an @."""

    source_template = BASH_SOURCE

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one at the cursor, and that one."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() else words.pop()
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return what bash is to put in place of the piece after the last @."""
        return f"{item.type},{item.value.rpartition('@')[2]}"


add_completion_class(PkgctlBash)
SHELLS = {"bash": PkgctlBash, "zsh": ZshComplete, "fish": FishComplete}

Items = list[CompletionItem[Any]]
Pairs = Iterable[tuple[str, str | None]]
Options = tuple[str | None, str | None, str | None]  # --url, --token, --server


def offered(ctx: click.Context, incomplete: str) -> Items:
    """Complete a name in the catalogs, and after an @ one of its versions."""
    name, at, _ = incomplete.partition("@")

    def pairs(client: Client) -> Pairs:
        if not at:
            found = client.get("catalog", search=name, limit=LISTED)
            return [(one["name"], one["description"]) for one in found]
        found = client.get(f"catalog/{quote(name, safe='')}")["versions"]
        usable = (offer for offer in found if offer["available"])
        return [(f"{name}@{offer['version']}", offer["catalog"]) for offer in usable]

    return _items(ctx, pairs, incomplete) if name else []


def registered(ctx: click.Context, incomplete: str) -> Items:
    """Complete the name of a registered package, and after an @ one of its versions."""
    return _packages(ctx, incomplete, {})


def active_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of an active package."""
    return _packages(ctx, incomplete, {"status": "activated", **_of_profile(ctx)})


def _packages(ctx: click.Context, incomplete: str, query: JsonObject) -> Items:
    name, at, _ = incomplete.partition("@")
    query = {"name": name, **query} if at else query

    def pairs(client: Client) -> Pairs:
        found = client.get("packages", limit=PAGE_SIZE, **query)
        called = "{name}@{version}" if at else "{name}"
        return [(called.format(**package), package["status"]) for package in found]

    return _items(ctx, pairs, incomplete)


def catalog_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete a name in the catalogs."""
    return [] if "@" in incomplete else offered(ctx, incomplete)


def registered_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of a registered package."""
    return [] if "@" in incomplete else registered(ctx, incomplete)


def recent_tasks(ctx: click.Context, incomplete: str) -> Items:
    """Complete the first digits of a recent task's id."""

    def pairs(client: Client) -> Pairs:
        found = client.get("tasks", limit=LISTED)
        notes = [f"{one['status']}, {age(one['created_at'])}" for one in found]
        return zip(short_ids([one["id"] for one in found]), notes, strict=True)

    return _items(ctx, pairs, incomplete)


def generations(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the number of a generation."""

    def pairs(client: Client) -> Pairs:
        found = client.get("generations", limit=LISTED, **_of_profile(ctx))
        return [(str(one["number"]), ", ".join(map(title, one["packages"]))) for one in found]

    return _items(ctx, pairs, incomplete)


def profiles(ctx: click.Context, incomplete: str) -> Items:
    """Complete the name of a profile."""

    def pairs(client: Client) -> Pairs:
        found = client.get("profiles")
        return [(one["name"], ", ".join(map(title, one["packages"]))) for one in found]

    return _items(ctx, pairs, incomplete)


def tokens(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the id of a token."""

    def pairs(client: Client) -> Pairs:
        return [(str(one["id"]), one["name"]) for one in client.get("tokens", limit=LISTED)]

    return _items(ctx, pairs, incomplete)


def webhooks(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the id of a webhook."""

    def pairs(client: Client) -> Pairs:
        return [(str(one["id"]), one["url"]) for one in client.get("webhooks", limit=LISTED)]

    return _items(ctx, pairs, incomplete)


def machines(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of a machine."""

    def pairs(client: Client) -> Pairs:
        found = client.get("machines", limit=PAGE_SIZE)
        return [(one["name"], f"{one['profile']}, {one['state']}") for one in found]

    return _items(ctx, pairs, incomplete)


def servers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of a server that pkgctl login knows."""
    try:
        known = ServersFile.load().servers
    except CommandError:
        return []
    return _fitting([(name, login.url) for name, login in known.items()], incomplete)


def _of_profile(ctx: click.Context) -> dict[str, str]:
    """Return the query that names the profile of the command line."""
    chosen = ctx.find_root().obj
    try:
        return chosen.of_profile if chosen else {}
    except CommandError:
        return {}


def _items(ctx: click.Context, pairs: Callable[[Client], Pairs], incomplete: str) -> Items:
    """Return what the chosen server has that begins as what was typed; of a server with a token.

    `pairs` asks it for values and notes.
    """
    chosen = ctx.find_root().obj
    options = (chosen.url, chosen.token, chosen.server) if chosen else (None, None, None)
    found: Items = []
    # A thread that nobody waits for: each time-out of a request begins anew with every byte.
    asking = threading.Thread(target=lambda: found.extend(_ask(options, pairs, incomplete)))
    asking.daemon = True
    asking.start()
    asking.join(LIMIT_SECONDS)
    return list(found)


def _ask(options: Options, pairs: Callable[[Client], Pairs], incomplete: str) -> Items:
    try:
        url, token = choose_server(*options)
        if token is None:
            return []
        with Client(url, token, limit_seconds=LIMIT_SECONDS) as client:
            return _fitting(pairs(client), incomplete)
    except (CommandError, *OTHER_DOCUMENT):
        return []


def _fitting(pairs: Pairs, incomplete: str) -> Items:
    """Return each plain value that begins as what was typed, once, with its note."""
    fitting = {
        value: printable(note or "")
        for value, note in pairs
        if value.startswith(incomplete) and PLAIN.fullmatch(value)
    }
    return [CompletionItem(value, help=fitting[value]) for value in islice(fitting, LISTED)]
