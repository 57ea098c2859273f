# Packages that a test defines. The test copies this file; each file in the folder `scripts` beside
# the copy is a package of that name in version 1.0.0, and the script that builds it. The path of
# the copy is part of each derivation, so that no test finds what another one has built.
let
  package = pname: {
    name = pname;
    value = derivation {
      name = "${pname}-1.0.0";
      inherit pname;
      version = "1.0.0";
      type = "derivation";
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [ "-e" (./scripts + "/${pname}") ];
      place = toString ./.;
      PATH = "/usr/bin:/bin";
    };
  };
in
builtins.listToAttrs (map package (builtins.attrNames (builtins.readDir ./scripts)))
