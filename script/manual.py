"""Write docs/pkgctl.1, the manual page of pkgctl, from its help: `python -m script.manual`."""

import re
from collections.abc import Collection, Iterator
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path

import click

from pkgctl.cli import ALIASES, cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "pkgctl.1"
# What stands in the help as it is to be seen begins so.
AS_IT_IS = "\b\n"
COMMON = {"json", "server", "token", "url", "help"}


def page() -> str:
    """Return the manual page."""
    ctx = click.Context(cli, info_name="pkgctl")
    about, *rest = paragraphs(cli.help or "")
    return "\n".join(
        [
            f'.TH PKGCTL 1 "" "pkgd {version("pkgd")}" "User Commands"',
            *(".SH NAME", rf"pkgctl \- {escaped(about[0].lower() + about[1:].rstrip('.'))}"),
            *(".SH SYNOPSIS", r".B pkgctl", escaped("[OPTIONS] COMMAND [ARGS]...")),
            *(".SH DESCRIPTION", *text(rest)),
            *(".SH OPTIONS", *options(ctx), ".PP", "All commands take the last four, too."),
            *(".SH COMMANDS", *commands(cli, ctx)),
            *(".SH ALIASES", *(f".TP\n.B {alias}\n{name}" for alias, name in ALIASES.items())),
            *(".SH FILES", ".TP", ".I ~/.config/pkgctl/servers.json"),
            "The servers and tokens of pkgctl login; below XDG_CONFIG_HOME where that is set.",
            *(".SH EXIT STATUS", *exit_codes(cli.epilog or "")),
            "",
        ]
    )


def commands(group: click.Group, ctx: click.Context) -> Iterator[str]:
    """Yield a section for each command of a group, and of the groups in it."""
    for name in group.list_commands(ctx):
        command = group.commands[name]
        inner = click.Context(command, parent=ctx, info_name=name)
        usage = " ".join(command.collect_usage_pieces(inner))
        yield from (".SS", rf"\fB{escaped(inner.command_path)}\fR {escaped(usage)}")
        yield from text(paragraphs(command.help or ""))
        yield from options(inner, leave_out=COMMON)
        if isinstance(command, click.Group):
            yield from commands(command, inner)


def options(ctx: click.Context, leave_out: Collection[str] = ("help",)) -> Iterator[str]:
    """Yield each option of a command, with its meaning."""
    for param in ctx.command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None and not {one.lstrip("-") for one in param.opts} & set(leave_out):
            yield from (".TP", rf"\fB{escaped(record[0])}\fR", escaped(record[1]))


def paragraphs(help_text: str) -> list[str]:
    """Return the paragraphs of a help text."""
    return re.split(r"\n\s*\n", cleandoc(help_text))


def text(parts: list[str]) -> Iterator[str]:
    """Yield paragraphs; one that is marked so keeps its lines."""
    for part in parts:
        if part.startswith(AS_IT_IS):
            yield from (".PP", ".nf", escaped(part.removeprefix(AS_IT_IS)), ".fi")
        else:
            yield from (".PP", escaped(" ".join(part.split())))


def exit_codes(epilog: str) -> Iterator[str]:
    """Yield each exit code with its meaning."""
    for code, meaning in re.findall(r"^ +(\d+)  (.+)$", epilog, re.MULTILINE):
        yield from (".TP", rf"\fB{code}\fR", escaped(meaning))


def escaped(text: str) -> str:
    """Return a text as roff reads it: no line begins a request, and hyphens can be copied."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return re.sub(r"^\.", r"\&.", text, flags=re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(page())
