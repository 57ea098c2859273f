"""The part of the demonstration about pins: catalogs that the host adds, and upgrades from them."""

import shlex
import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from script.telling import CYAN, Unexpected, expect, step, tell

ROOT = Path(__file__).resolve().parent.parent
COMMAND_SECONDS = 120
OLDER = """let all = import ./catalog { };
in removeAttrs all [ "hello_2_12" ] // { hello = all.hello_2_10; }
"""
NEWER = "import ./catalog { }\n"
EMPTY = "{ }\n"


@dataclass(frozen=True)
class Shell:
    """Runs commands of the virtual environment, and prints each with what it prints."""

    environment: dict[str, str]

    def run(self, program: str, *words: str) -> str:
        """Run a command, which must succeed; return what it prints."""
        tell(f"$ {shlex.join([program, *words])}", CYAN)
        try:
            done = subprocess.run(
                [ROOT / ".venv" / "bin" / program, *words],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise Unexpected(f"{program} was to end within {COMMAND_SECONDS} s") from error
        tell(done.stdout)
        expect(f"the exit code of {program}", done.returncode, 0)
        return done.stdout


def story(shell: Shell, folder: Path) -> None:
    """Have pins take the place of the configured catalog, and upgrade from one to the next."""
    step("Empty the catalog so far, and pin another one: a tarball, which Nix keeps by its hash")
    (catalog_folder(folder) / "default.nix").write_text(EMPTY)
    older = tarball(folder / "2024-05.tar.gz", OLDER)
    shell.run("flask", "--app", "app", "catalog", "add", "2024-05", older)

    step("Install a package by its name alone: the newest version that is on offer")
    said = shell.run("pkgctl", "install", "hello")
    expect("what was chosen", said.splitlines()[0], "Chose hello 2.10.0, of catalog 2024-05")

    step("Pin a newer catalog beside it: what is outdated now?")
    newer = tarball(folder / "2024-10.tar.gz", NEWER)
    shell.run("flask", "--app", "app", "catalog", "add", "2024-10", newer)
    said = shell.run("pkgctl", "outdated")
    expect("what is outdated", said.split(), ["hello", "2.10.0", "2.12.1", "2024-10"])

    step("Upgrade: all newer versions are downloaded, and activated in one step")
    said = shell.run("pkgctl", "upgrade")
    expect("the last line", said.splitlines()[-1], "Success: Upgraded 1 package")


def catalog_folder(folder: Path) -> Path:
    """Return the folder that is the configured catalog."""
    return folder / "catalog"


def make_catalog(folder: Path) -> None:
    """Make the configured catalog, which offers what the bundled one does."""
    catalog_folder(folder).mkdir()
    text = f"import (/. + {nix_string(str(ROOT / 'catalog'))}) {{ }}\n"
    (catalog_folder(folder) / "default.nix").write_text(text)


def nix_string(text: str) -> str:
    """Return a text as a string of Nix."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return f'"{escaped}"'


def tarball(path: Path, default_nix: str) -> str:
    """Make a tarball of the bundled catalog, which offers what a file says; return its URL."""
    member = tarfile.TarInfo("greetings/default.nix")
    member.size = len(default_nix)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(ROOT / "catalog", "greetings/catalog")
        archive.addfile(member, BytesIO(default_nix.encode()))
    return path.as_uri()
