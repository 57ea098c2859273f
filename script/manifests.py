"""The part of the demonstration about manifests: pkgctl applies one, promotes it, and goes back."""

from pathlib import Path

from script.pinned import Shell
from script.telling import expect, step, tell

MANIFEST = """profile = "team"

[packages]
hello = "^2.10"
fortune = "latest"
"""


def story(shell: Shell, folder: Path) -> None:
    """Apply a manifest by pkgctl, follow its lock, promote the profile, and go back."""
    step("Write a manifest: what a profile is to hold, in a file that can be kept under git")
    path = folder / "pkgs.toml"
    path.write_text(MANIFEST)
    tell(MANIFEST)

    step("Apply it: versions are chosen and written to its lock, the profile changes in one step")
    said = shell.run("pkgctl", "apply", str(path))
    chosen = [line for line in said.splitlines() if line.startswith("+ ")]
    expect("what has come", chosen, ["+ fortune 1.2.0", "+ hello 2.12.1"])

    step("Follow the lock to the letter: nothing is chosen again, and nothing changes")
    said = shell.run("pkgctl", "apply", "--locked", str(path))
    last = "Success: Profile team holds 2 packages, as before"
    expect("the last line", said.splitlines()[-1], last)

    step("Promote it to the default profile: what would change, and then the switch")
    shell.run("pkgctl", "diff", "default", "team")
    said = shell.run("pkgctl", "promote", "team", "default")
    expect("what goes", said.splitlines()[1:3], ["- hello 2.10.0", "+ hello 2.12.1"])

    step("And the way back, by one command")
    said = shell.run("pkgctl", "rollback")
    expect("what has come back", "+ hello 2.10.0" in said.splitlines(), True)
