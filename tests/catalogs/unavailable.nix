# Packages that look as if they could be had, most of which can't be instantiated.
let
  make = name: version: more: derivation ({
    pname = name;
    inherit version;
    name = "${name}-${version}";
    system = "builtin";
    builder = "builtin:none";
  } // more);
  package = name: make name "1.0";
  refused = why: throw "Package ‘dep-2.0’ in /nix/pkgs/dep.nix:7 ${why}, refusing to evaluate.";
in
{
  good = package "good" { };
  needing = package "needing" { dep = package "dep" { }; outputs = [ "out" "dev" ]; };
  reading = package "reading" { text = builtins.readFile (builtins.toFile "text" "written"); };

  # which only a verification evaluates
  unwritten = package "unwritten" { dep = package "unwritten-dep" { }; outputs = [ "out" "dev" ]; };

  aborting = package "aborting" { dep = abort "cannot go on"; };
  asserting = package "asserting" { dep = assert 1 > 2; "dep"; };
  breaking = package "breaking" { dep = refused "is marked as broken"; };
  closed = package "closed" { dep = refused "has an unfree license (‘unfree’)"; };
  endless = package "endless" { dep = let dep = "${dep}"; in dep; };
  importing = package "importing" { dep = import (package "generated" { }); };
  insecure = package "insecure" { dep = refused "is marked as insecure"; };
  mistaken = package "mistaken" { dep = 1 + "a"; };
  throwing = package "throwing" { dep = throw "no compiler\n for it"; };

  # of the same version, or of another one
  twin = package "twin" { dep = throw "no"; };
  twin_1 = package "twin" { };
  twin_2 = make "twin" "2.0" { dep = abort "no"; };

  # not to be had by itself, and never evaluated
  refused = package "refused" { dep = abort "evaluated"; } // { meta = { available = false; broken = true; }; };

  tools = {
    recurseForDerivations = true;
    good = package "good" { };
    throwing = package "throwing" { dep = throw "no compiler"; };
  };
}
