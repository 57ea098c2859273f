"""Nix from Python: one function for each thing that Nix is asked to do.

The functions call Nix's classic commands, and raise an error of nix.errors if one fails. They trust
their arguments; a user's text reaches Nix only as a string, by `--argstr`.
"""

from nix.availability import Availability
from nix.build import add_root, realise, restore, valid_paths
from nix.closure import closure_size
from nix.errors import (
    REFUSALS,
    BuildFailed,
    Collision,
    DiskFull,
    EvaluationFailed,
    FetchFailed,
    HashMismatch,
    NameUnknown,
    NixCrashed,
    NixError,
    NixMissing,
    NixTooOld,
    NixUnavailable,
    ProfileRefused,
    Refused,
    TimedOut,
    VersionUnavailable,
    codes,
)
from nix.evaluate import (
    NOTHING_MORE,
    Allowed,
    CatalogFailure,
    Offer,
    Offers,
    Resolution,
    failing,
    offers,
    resolve,
)
from nix.garbage import collect_garbage, garbage_bytes
from nix.internal_json import Progress, Tick
from nix.process import Completed, run, sweep
from nix.profile import (
    ProfileGeneration,
    ProfilePackage,
    check_activatable,
    current_generation,
    delete_generations,
    generation_link,
    generations,
    installed,
    set_profile,
    switch_generation,
)
from nix.store import Store, check, find_channel, machine_store, private_store, version
from nix.versions import LENGTH as VERSION_LENGTH
from nix.versions import is_prerelease, semantic

__all__ = [
    "NOTHING_MORE",
    "REFUSALS",
    "VERSION_LENGTH",
    "Allowed",
    "Availability",
    "BuildFailed",
    "CatalogFailure",
    "Collision",
    "Completed",
    "DiskFull",
    "EvaluationFailed",
    "FetchFailed",
    "HashMismatch",
    "NameUnknown",
    "NixCrashed",
    "NixError",
    "NixMissing",
    "NixTooOld",
    "NixUnavailable",
    "Offer",
    "Offers",
    "ProfileGeneration",
    "ProfilePackage",
    "ProfileRefused",
    "Progress",
    "Refused",
    "Resolution",
    "Store",
    "Tick",
    "TimedOut",
    "VersionUnavailable",
    "add_root",
    "check",
    "check_activatable",
    "closure_size",
    "codes",
    "collect_garbage",
    "current_generation",
    "delete_generations",
    "failing",
    "find_channel",
    "garbage_bytes",
    "generation_link",
    "generations",
    "installed",
    "is_prerelease",
    "machine_store",
    "offers",
    "private_store",
    "realise",
    "resolve",
    "restore",
    "run",
    "semantic",
    "set_profile",
    "sweep",
    "switch_generation",
    "valid_paths",
    "version",
]
