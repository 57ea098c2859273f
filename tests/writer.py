"""Catalogs that tests write: packages that are only ever looked at, never built."""

PACKAGE = """
let package = pname: version: more: derivation ({
  inherit pname version;
  name = "${pname}-${version}";
  system = "builtin";
  builder = "builtin:none";
} // more); in
"""


def writer(folder):
    """Return a function that writes a catalog, with a function `package`, and returns its path."""

    def catalog(text, name="catalog"):
        path = folder / f"{name}.nix"
        path.write_text(PACKAGE + text)
        return str(path)

    return catalog
