"""Nix from Python: one function for each thing that Nix is asked to do.

The functions call Nix's classic commands, and raise an error of nix.errors if one fails. They trust
their arguments; a user's text reaches Nix only as a string, by `--argstr`.
"""

from nix.availability import Availability
from nix.build import add_root, realise, restore, valid_paths
from nix.closure import closure_size
from nix.errors import (
    BuildFailed,
    Collision,
    DiskFull,
    EvaluationFailed,
    FetchFailed,
    HashMismatch,
    NameUnknown,
    NixCrashed,
    NixError,
    NixKilled,
    NixMissing,
    NixTooOld,
    NixUnavailable,
    ProfileRefused,
    ProfileReplaced,
    TimedOut,
    VersionUnavailable,
    codes,
)
from nix.evaluate import CatalogFailure, Offer, Offers, Resolution, failing, offers, resolve
from nix.garbage import collect_garbage, garbage_bytes
from nix.internal_json import Progress, Tick
from nix.process import Completed, run, sweep
from nix.profile import (
    ProfilePackage,
    check_activatable,
    current_generation,
    delete_generations,
    generation_link,
    generations,
    installed,
    leads_to,
    relink,
    set_profile,
    switch_generation,
)
from nix.store import (
    Store,
    check,
    find_channel,
    machine_store,
    make_passable,
    private_store,
    version,
)
from nix.terminal import decode, plain

__all__ = [
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
    "NixKilled",
    "NixMissing",
    "NixTooOld",
    "NixUnavailable",
    "Offer",
    "Offers",
    "ProfilePackage",
    "ProfileRefused",
    "ProfileReplaced",
    "Progress",
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
    "decode",
    "delete_generations",
    "failing",
    "find_channel",
    "garbage_bytes",
    "generation_link",
    "generations",
    "installed",
    "leads_to",
    "machine_store",
    "make_passable",
    "offers",
    "plain",
    "private_store",
    "realise",
    "relink",
    "resolve",
    "restore",
    "run",
    "set_profile",
    "sweep",
    "switch_generation",
    "valid_paths",
    "version",
]
