"""Where programs are, if that is on this machine, and how PATH comes to have them."""

import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import click

from pkgctl.client import JsonObject
from pkgctl.errors import CommandError, ExitCode
from pkgctl.options import CommandContext, common_options, profile_option

LISTED = 5
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# How a shell takes a folder in front of PATH, and the file to keep that in.
EXPORT = "export PATH={path}"
SHELLS = {
    "bash": (EXPORT, "~/.bashrc"),
    "zsh": (EXPORT, "~/.zshrc"),
    "fish": ("fish_add_path {folder}", ""),
    "csh": ("setenv PATH {path}", "~/.cshrc"),
    "tcsh": ("setenv PATH {path}", "~/.tcshrc"),
}
OTHER_SHELL = (EXPORT, "~/.profile")


@click.command()
@common_options
@profile_option
def path(context: CommandContext) -> None:
    """Print the folder of a profile's programs.

    \b
    Examples:
      pkgctl path
      export PATH="$(pkgctl path):$PATH"
    """
    profile = _profile(context)
    if profile is None:
        raise context.too_old("tell where its profile is")
    if not _is_here(context, profile):
        message = f"{profile / 'bin'} is on {_host(context)}, and can't be read from here"
        raise CommandError(message, ExitCode.REFUSED)
    context.printer.result({"path": str(profile / "bin")}, str(profile / "bin"))


def show(context: CommandContext, packages: list[JsonObject], *, in_profile: bool) -> None:
    """Print where the programs of packages are, and how PATH comes to have them.

    That is said whenever it doesn't, not once: nothing has to be remembered, and it ends by itself.
    """
    if context.printer.as_json:
        return
    profile = _profile(context) if in_profile else None
    here = [package for package in packages if os.path.exists(str(package["store_path"]))]
    for package in here:
        _show_programs(context, package, profile)
    if len(here) < len(packages):
        places = {str(profile / "bin")} if profile else {one["store_path"] for one in packages}
        listed = ", ".join(sorted(places))
        context.printer.line(f"On {_host(context)}, not to be read from here: {listed}")
    elif profile and context.printer.is_terminal and not _is_on_path(profile / "bin"):
        _show_path(context, profile / "bin")


def _show_programs(context: CommandContext, package: JsonObject, profile: Path | None) -> None:
    found = programs(package, profile)
    for program in found[:LISTED]:
        context.printer.line(str(program))
    if len(found) > LISTED:
        more = f"and {len(found) - LISTED} more programs, in {found[0].parent}"
        context.printer.line(more)


def programs(package: JsonObject, profile: Path | None) -> list[Path]:
    """Return the programs of a package: in the profile where that has them, else in the store.

    The one that is called as the package stands for all. Without any it is the store path.
    """
    store_path = Path(package["store_path"])
    own = sorted(one for one in store_path.glob("bin/*") if not one.name.startswith("."))
    called = package["name"].rpartition(".")[2]
    own = [one for one in own if one.name == called] or own
    if profile is not None:
        linked = [profile / "bin" / one.name for one in own]
        pairs = zip(linked, own, strict=True)
        if all(os.path.realpath(link) == os.path.realpath(one) for link, one in pairs):
            own = linked
    return own or [store_path]


def _profile(context: CommandContext) -> Path | None:
    """Return the path of the profile on the server's machine; None of an older server."""
    if context.of_profile:
        return Path(context.client.get(f"profile/{context.profile}")["path"])
    told = context.client.get("version").get("profile")
    return Path(told) if told else None


def _is_here(context: CommandContext, profile: Path) -> bool:
    """Tell whether the profile is on this machine: its packages then are, too."""
    query = {"status": "activated", "limit": 1, **context.of_profile}
    active = next(context.client.list_all("packages", **query), None)
    if active is None:
        return profile.parent.is_dir() and _host(context) in LOOPBACK
    return profile.exists() and os.path.exists(active["store_path"])


def _host(context: CommandContext) -> str:
    return urlsplit(context.client.url).hostname or context.client.url


def _is_on_path(folder: Path) -> bool:
    """Tell whether PATH has a folder, under this name or another."""
    entries = filter(None, os.environ.get("PATH", "").split(os.pathsep))
    return os.path.realpath(folder) in map(os.path.realpath, entries)


def _show_path(context: CommandContext, folder: Path) -> None:
    """Print the line that puts a folder on PATH, for the shell of the user."""
    line, file = SHELLS.get(Path(os.environ.get("SHELL", "")).name, OTHER_SHELL)
    quoted = shlex.quote(str(folder))
    path = f'"{folder}:$PATH"' if quoted == str(folder) else f'{quoted}:"$PATH"'
    context.printer.line("To run it by its name, put the profile on your PATH:")
    context.printer.line(f"  {line.format(path=path, folder=quoted)}")
    if file:
        context.printer.line(f"That line in {file} keeps it there.")
