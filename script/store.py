"""Whether this user can build in the machine's own Nix store: `python -m script.store` tries it."""

import subprocess
import sys
import time

PROBE_SECONDS = 10
DELETE_PAUSES = (0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# The time makes each run a new derivation, and the builder is part of Nix, so that no shell is
# needed in the sandbox.
PROBE = """derivation {
  name = "pkgd-probe";
  system = builtins.currentSystem;
  builder = "builtin:buildenv";
  derivations = [ ];
  manifest = "/dev/null";
  time = builtins.currentTime;
}"""


def fault() -> str:
    """Return why nothing can be built in the machine's store; "" if it can."""
    build = ["nix-build", "--no-out-link", "--option", "substitute", "false", "--expr", PROBE]
    try:
        built = call(build)
    except OSError as error:
        return f"nix-build can't be run: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"it did not answer within {PROBE_SECONDS} s"
    if built.returncode:
        errors = [line for line in built.stderr.splitlines() if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else "nix-build fails there"

    path = built.stdout.strip()
    derivation = call(["nix-store", "--query", "--deriver", path]).stdout.strip()
    delete(path, derivation)
    return ""


def delete(*paths: str) -> None:
    """Delete paths of the store; on a busy machine they may be in use for a moment longer.

    Nix deletes nothing either while any process has a file open whose path is too long for it.

    Tell on stderr why they are left, if they are.
    """
    for pause in DELETE_PAUSES:
        time.sleep(pause)
        done = call(["nix-store", "--delete", *paths])
        if done.returncode == 0:
            return
    print(f"{' and '.join(paths)} could not be deleted:", done.stderr.strip(), file=sys.stderr)


def call(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of Nix."""
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)


if __name__ == "__main__":
    sys.exit(1 if fault() else 0)
