# A shell to work on pkgd in: `nix-shell`, then `pytest -v`.
#
# Programs come from nixpkgs, Python packages from requirements-dev.txt into .venv.
{ pkgs ? import <nixpkgs> { } }:

pkgs.mkShell {
  packages = with pkgs; [ cacert caddy curl git nginx nix openssl postgresql python3 shellcheck util-linux ];

  # The compiled parts of the Python packages link to it.
  LD_LIBRARY_PATH = pkgs.lib.makeLibraryPath [ pkgs.stdenv.cc.cc.lib ];

  shellHook = ''
    script/bootstrap --dev && PATH=$PWD/.venv/bin:$PATH
  '';
}
