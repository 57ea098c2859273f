"""What a shell completes: names, versions, tasks and more, asked of the server within a moment.

Whatever fails, nothing is said: a message would land in the line that somebody is typing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
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

from pkgctl.client import Client, JsonObject
from pkgctl.config import ServersFile, choose_server
from pkgctl.errors import CommandError
from pkgctl.tables import age, short_ids, title

LIMIT_SECONDS = 1.5
LISTED = 200

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


def offered(ctx: click.Context, incomplete: str) -> Items:
    """Complete a name in the catalogs, and after an @ one of its versions."""
    name, at, _ = incomplete.partition("@")
    if at:
        path = f"catalog/{quote(name, safe='')}"
        found = _ask(ctx, lambda client: client.get(path)["versions"])
        versions = (offer for offer in found if offer["available"])
        pairs = [(f"{name}@{one['version']}", one["catalog"]) for one in versions]
        return _items(pairs, incomplete)
    if not name:
        return []
    search = {"search": name, "limit": LISTED}
    found = _ask(ctx, lambda client: client.get("catalog", **search))
    return _items([(one["name"], one["description"]) for one in found], incomplete)


def registered(ctx: click.Context, incomplete: str) -> Items:
    """Complete the name of a registered package, and after an @ one of its versions."""
    return _packages(ctx, incomplete, {})


def active_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of an active package."""
    return _packages(ctx, incomplete, {"status": "activated"})


def _packages(ctx: click.Context, incomplete: str, query: JsonObject) -> Items:
    name, at, _ = incomplete.partition("@")
    query = {"name": name, **query} if at else query
    found = _ask(ctx, lambda client: client.get("packages", limit=1000, **query))
    pairs = [
        (f"{one['name']}@{one['version']}" if at else one["name"], one["status"]) for one in found
    ]
    return _items(pairs, incomplete)


def catalog_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete a name in the catalogs."""
    return [] if "@" in incomplete else offered(ctx, incomplete)


def registered_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of a registered package."""
    return [] if "@" in incomplete else registered(ctx, incomplete)


def recent_tasks(ctx: click.Context, incomplete: str) -> Items:
    """Complete the first digits of a recent task's id."""
    found = _ask(ctx, lambda client: client.get("tasks", limit=LISTED))
    ids = short_ids([one["id"] for one in found])
    notes = (f"{one['status']}, {age(one['created_at'])}" for one in found)
    return _items(zip(ids, notes, strict=True), incomplete)


def generations(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the number of a generation."""
    found = _ask(ctx, lambda client: client.get("generations", limit=LISTED))
    pairs = [(str(one["number"]), ", ".join(map(title, one["packages"]))) for one in found]
    return _items(pairs, incomplete)


def tokens(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the id of a token."""
    found = _ask(ctx, lambda client: client.get("tokens", limit=LISTED))
    return _items([(str(one["id"]), one["name"]) for one in found], incomplete)


def servers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Complete the name of a server that pkgctl login knows."""
    try:
        known = ServersFile.load().servers
    except CommandError:
        return []
    return _items([(name, login.url) for name, login in known.items()], incomplete)


def _ask(ctx: click.Context, fetch: Callable[[Client], Iterable[JsonObject]]) -> list[JsonObject]:
    """Return what the chosen server answers; nothing without a token, or where anything fails."""
    chosen = ctx.find_root().obj
    try:
        options = (chosen.url, chosen.token, chosen.server) if chosen else (None, None, None)
        url, token = choose_server(*options)
        if token is None:
            return []
        with Client(url, token, limit_seconds=LIMIT_SECONDS) as client:
            return list(fetch(client))
    except (CommandError, LookupError, TypeError):
        return []


def _items(pairs: Iterable[tuple[str, str | None]], incomplete: str) -> Items:
    """Return each value that begins as what was typed, once, with its note."""
    fitting = {value: note for value, note in pairs if value.startswith(incomplete)}
    return list(islice(_completions(fitting), LISTED))


def _completions(fitting: dict[str, str | None]) -> Iterator[CompletionItem[Any]]:
    for value, note in fitting.items():
        yield CompletionItem(value, help=note)
