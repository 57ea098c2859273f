# A catalog of what a test makes up: each file in the folder `scripts` beside a copy of this one is
# a package of that name, version 1.0.0, which its builder makes by running the file. The copy's
# place is part of each derivation: what another test has built is not found again.
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
