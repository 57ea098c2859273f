"""The command install: what is wanted is chosen, registered, downloaded and activated."""

from itertools import pairwise

import click

from pkgctl import downloads, programs, sets
from pkgctl.arguments import EXACT, PackageSpec, WantedType
from pkgctl.catalog import chosen
from pkgctl.client import JsonObject
from pkgctl.options import CommandContext, common_options, download_options, profile_option
from pkgctl.tables import title
from pkgctl.waiting import WaitSettings


@click.command()
@common_options
@profile_option
@download_options
@click.argument(
    "wanted", metavar="NAME[@VERSION|@RANGE]...", type=WantedType(), nargs=-1, required=True
)
@click.option("--no-activate", is_flag=True, help="Only download it.")
@click.option("--keep-going", is_flag=True, help="Activate the others when a download fails.")
def install(
    context: CommandContext,
    wanted: tuple[PackageSpec, ...],
    *,
    no_activate: bool,
    keep_going: bool,
    timeout: float | None,
    whole_log: bool,
    cancel_on_interrupt: bool,
) -> None:
    """Register, download and activate packages.

    Without a version, or with @latest, it is the newest that may be had and is no pre-release;
    with a range the newest in it. What is done already is not done again. Several packages are
    activated in one generation, or none of them.

    \b
    Examples:
      pkgctl install hello
      pkgctl install hello@2.12.1 parrot
      pkgctl install 'hello@^2.10' --timeout 10m
      pkgctl install 'hello@>=2,<2.12' --no-activate
    """
    _check_names(wanted)
    specs = [chosen(context, one) for one in _once_each(wanted)]
    flags = [*["--no-activate"] * no_activate, *["--keep-going"] * keep_going]
    resume_command = context.command_line("install", *specs, *flags)
    settings = WaitSettings(timeout, resume_command, whole_log, cancel_on_interrupt)

    if context.of_profile and not no_activate:
        sets.held(context, context.profile)  # before anything is downloaded for none

    started = [downloads.start(context, spec) for spec in specs]
    downloads.wait_for_all(context, started, settings)
    downloads.forget_unknown(context, started)
    if len(started) == 1 and started[0].error:
        raise started[0].error
    downloads.warn_of_failures(started)

    usable = downloads.usable(started, keep_going=keep_going or no_activate)
    if usable:
        _finish(context, [one.package for one in usable], no_activate, as_list=len(started) > 1)
    downloads.check(started, keep_going=keep_going or no_activate)


def _check_names(wanted: tuple[PackageSpec, ...]) -> None:
    """Raise UsageError for a version that was given as a word of its own."""
    for before, spec in pairwise(wanted):
        if EXACT.fullmatch(spec.name):
            meant = PackageSpec(before.name, spec.name)
            raise click.UsageError(f"{spec.name} is no name; did you mean {meant}?")


def _once_each(wanted: tuple[PackageSpec, ...]) -> list[PackageSpec]:
    """Return what is wanted, each name once; two versions of one can't both be active."""
    once = list(dict.fromkeys(wanted))
    names = [spec.name for spec in once]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"{name} is wanted in two versions: a profile holds one")
    return once


def _finish(
    context: CommandContext, packages: list[JsonObject], no_activate: bool, *, as_list: bool
) -> None:
    """Activate what was downloaded, and show it: as JSON a list where several were asked for."""
    if not no_activate:
        downloads.activate(context, packages)
        context.printer.line(f"Success: Activated {', '.join(map(title, packages))}")
    installed = [context.package(package["id"]) for package in packages]
    programs.show(context, installed, in_profile=not no_activate)
    context.printer.json(installed if as_list else installed[0])
