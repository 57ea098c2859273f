"""Tarballs of catalogs, as tests make them up."""

import io
import tarfile
from datetime import UTC, datetime

REVISION = "0123456789abcdef0123456789abcdef01234567"
DATE = datetime(2024, 5, 31, 12, 0, tzinfo=UTC)

# The packages of a catalog that are built by nothing but a shell.
PACKAGE = """
  {name} = derivation {{
    name = "{name}-{version}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo {name} > $out" ];
    pname = "{name}";
    version = "{version}";
    type = "derivation";
  }};
"""


def catalog(**versions):
    """Return the text of a catalog with these packages, each in one version."""
    packages = "".join(PACKAGE.format(name=name, version=v) for name, v in versions.items())
    return f"{{ {packages} }}"


def tarball(path, *, mode="w:gz", revision=None, date=DATE, **files):
    """Write a tarball of a folder with these files, as `git archive` does; return its URL.

    `_` in the name of a file stands for a dot; `revision` is what the tarball says it is.
    """
    comment = {"comment": revision} if revision else {}
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT, pax_headers=comment) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"catalog/{name.replace('_', '.')}")
            member.size, member.mtime = len(text), int(date.timestamp())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path.as_uri()
