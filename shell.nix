# A shell to work on pkgd in: `nix-shell`, then `pytest -v`.
#
# Programs come from nixpkgs. The Python packages are those of requirements-dev.txt, in .venv, to
# the very version: pkgd extends gunicorn, whose insides change with each.
{ pkgs ? import <nixpkgs> { } }:

pkgs.mkShell {
  packages = with pkgs; [ cacert curl git nginx nix postgresql python3 shellcheck util-linux ];

  # what the packages' compiled parts link to
  LD_LIBRARY_PATH = pkgs.lib.makeLibraryPath [ pkgs.stdenv.cc.cc.lib ];

  shellHook = ''
    script/bootstrap --dev && PATH=$PWD/.venv/bin:$PATH
  '';
}
