"""Building: realise derivations, and keep store paths valid and alive."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nix.errors import BuildFailed, NixError, TimedOut
from nix.internal_json import BuildLogReader, Progress, Tick, ignore
from nix.process import Completed, run, scratch, sweep
from nix.store import CALL_SECONDS, DOWNLOAD_OPTIONS, Store, call, call_in_batches, text

MARGIN_SECONDS = 5
NO_SUBSTITUTES = ("--option", "substitute", "false")
# To ask Nix's own build hook for other machines starts one more program of Nix for each build.
NO_BUILDERS = Path(__file__).resolve().parent / "no_builders.sh"
REPAIRING = Progress(0, 1, "building")
# The outputs that a derivation's file begins with, each with its path where that is known before.
OUTPUTS = re.compile(r'Derive\(\[((?:\("[^"]*","[^"]*","[^"]*","[^"]*"\),?)+)\]')
OUTPUT = re.compile(r'\("([^"]*)","([^"]*)"')


def realise(
    store: Store,
    drv_path: str,
    output: str,
    root: Path,
    *,
    tmp: Path,
    build_seconds: int,
    silence_seconds: int,
    builders: str = "",
    tick: Tick = ignore,
) -> str:
    """Build or fetch an output of a derivation, with `root` as its GC root; return its store path.

    An output that is in the store is only rooted: that takes one program of Nix, and no reaper.

    `tmp` is a directory for this run alone: processes that still use it at the end are killed.
    `tick` is called with new log and the progress at least every TICK_SECONDS; an exception from
    it ends the build and reaches the caller.

    Raises BuildFailed, FetchFailed, HashMismatch, DiskFull, TimedOut.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    reader = BuildLogReader(drv_path)
    stored = _root_of_stored(store, drv_path, output, root, lambda: tick(b"", reader.progress))
    if stored is not None:
        tick(b"", replace(reader.progress, phase="rooting"))
        return stored

    argv = _nix_build(drv_path, output, root, build_seconds, silence_seconds)
    argv += _where_to_build(store, builders)
    path = _built_path(store, _build(store, argv, reader, build_seconds, tmp, tick))
    restore(store, path, seconds=build_seconds, tick=tick)
    if output != "out":
        _rename_root(store, path, root.with_name(f"{root.name}-{output}"), root)
    tick(b"", replace(reader.progress, phase="rooting"))
    return path


def _build(
    store: Store, argv: list[str], reader: BuildLogReader, seconds: int, tmp: Path, tick: Tick
) -> Completed:
    """Run nix-build to its success."""
    try:
        with _swept(tmp) as folder:
            # The margin lets Nix enforce its limit first: its message names the derivation. Silence
            # is left to Nix alone: a builder may write what reaches nix-build only much later.
            done = run(
                argv,
                environ=store.with_tmp(folder).environ,
                seconds=seconds + MARGIN_SECONDS,
                is_build=True,
                heard=lambda lines: tick(reader.read(lines), reader.progress),
            )
    except TimedOut as error:
        raise TimedOut(reader.quote(str(error))) from None
    if done.code:
        raise reader.failure(done.code)
    return done


def _root_of_stored(
    store: Store, drv_path: str, output: str, root: Path, beat: Callable[[], None]
) -> str | None:
    """Root an output that is in the store, and return its path; None where it isn't, or may not be.

    Whether it is valid is for Nix to say: what is on the disk may be a part of it.
    """
    path = _output_path(drv_path, output)
    if path is None or not store.is_store_path(path) or not os.path.lexists(path):
        return None
    try:
        _add_root(store, path, root, *NO_SUBSTITUTES, beat=beat, is_brief=True)
    except NixError:
        return None
    return path


def _output_path(drv_path: str, output: str) -> str | None:
    """Return the path of an output, as the derivation's file has it; None where it has none."""
    with suppress(OSError):
        outputs = OUTPUTS.match(Path(drv_path).read_text(errors="replace"))
        return dict(OUTPUT.findall(outputs[1])).get(output) if outputs else None
    return None


def _nix_build(
    drv_path: str,
    output: str,
    root: Path,
    build_seconds: int,
    silence_seconds: int,
) -> list[str]:
    return [
        "nix-build",
        f"{drv_path}!{output}",
        *("--out-link", str(root)),
        *("--log-format", "internal-json"),
        *("--timeout", str(build_seconds)),
        *("--max-silent-time", str(silence_seconds)),
        *("--option", "log-lines", "0"),
        *DOWNLOAD_OPTIONS,
    ]


def _where_to_build(store: Store, builders: str) -> list[str]:
    """Return the options that name other machines to build on, or say that there are none."""
    if builders:
        return ["--builders", builders]
    if store.has_no_builders and os.access(NO_BUILDERS, os.X_OK):
        return ["--option", "build-hook", str(NO_BUILDERS)]
    return []


def _built_path(store: Store, done: Completed) -> str:
    """Return the store path that nix-build wrote."""
    path = text(done).strip()
    if not store.is_store_path(path):
        raise BuildFailed(f"nix-build wrote no store path: {path!r:.100}")
    return path


@contextmanager
def _swept(tmp: Path) -> Iterator[Path]:
    """Provide the scratch directory `tmp`; after an exception, kill what still works in it.

    Otherwise the reaper has ended all that builders left.
    """
    with scratch(tmp) as folder, ExitStack() as on_exception:
        on_exception.callback(sweep, folder)
        yield folder
        on_exception.pop_all()


def _rename_root(store: Store, path: str, made: Path, root: Path) -> None:
    """Move the GC root of `path`: nix-build appends the output's name to the one it is given."""
    add_root(store, path, root)
    made.unlink()


def restore(store: Store, path: str, *, seconds: int = CALL_SECONDS, tick: Tick = ignore) -> None:
    """Build again a path that is registered in the store but missing from the disk."""
    if not os.path.lexists(path) and _registered(store, [path]):
        argv = ["nix-store", "--repair-path", path]
        done = call(store, argv, seconds=seconds, beat=lambda: tick(b"", REPAIRING), is_build=True)
        text(done, BuildFailed)


def valid_paths(store: Store, paths: Iterable[str]) -> set[str]:
    """Return those of the paths that are registered in the store and exist on the disk."""
    return {path for path in _registered(store, paths) if os.path.lexists(path)}


def _registered(store: Store, paths: Iterable[str]) -> set[str]:
    own = set(filter(store.is_store_path, paths))
    argv = ["nix-store", "--check-validity", "--print-invalid"]
    return own - set(call_in_batches(store, argv, own))


def known_roots(store: Store) -> set[str]:
    """Return the links outside the store's own folders that Nix takes for GC roots.

    A link that was moved, or copied, is none of them: Nix knows it by its path.
    """
    folder = Path(store.environ.get("NIX_STATE_DIR", "/nix/var/nix"), "gcroots", "auto")
    known = set()
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):  # Nix removes those that lead nowhere
                known.add(os.readlink(folder / name))
    return known


def add_root(store: Store, path: str, root: Path) -> None:
    """Keep a valid store path alive by a GC root at `root`."""
    root.parent.mkdir(parents=True, exist_ok=True)
    _add_root(store, path, root)


def _add_root(store: Store, path: str, root: Path, *options: str, **more: Any) -> None:
    argv = ["nix-store", "--realise", path, "--add-root", str(root), *options]
    text(call(store, argv, **more))
