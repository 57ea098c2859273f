"""GC roots: links that keep the outputs of downloaded packages in the store."""

import re
from collections.abc import Collection
from pathlib import Path

from nix import trees

# nix-build appends the output's name, which stays when it is killed before the link is renamed.
NAME = re.compile(r"(\d+)-\d+(-.+)?")


def link(data_dir: Path, package_id: int, number: int) -> Path:
    """Return the path of the root of a package's output; output 0 is the main one."""
    return data_dir / "roots" / f"{package_id}-{number}"


def all_links(data_dir: Path) -> dict[Path, int]:
    """Return every root, with the id of its package; what is no link is no root of ours."""
    links = trees.listed(data_dir / "roots")
    found = ((path, NAME.fullmatch(path.name)) for path in links)
    return {path: int(match[1]) for path, match in found if match and path.is_symlink()}


def remove(data_dir: Path, package_id: int) -> None:
    """Remove a package's roots, so that the next garbage collection may delete its store paths."""
    for path, owner in all_links(data_dir).items():
        if owner == package_id:
            path.unlink(missing_ok=True)


def are_complete(
    data_dir: Path, package_id: int, store_paths: list[str], known: Collection[str]
) -> bool:
    """Tell whether each of the package's store paths has its root, which is among the `known`."""
    links = (link(data_dir, package_id, number) for number in range(len(store_paths)))
    return all(
        str(path) in known and path.is_symlink() and str(path.readlink()) == store_path
        for path, store_path in zip(links, store_paths, strict=True)
    )
