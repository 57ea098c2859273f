# The demonstration catalog. It builds on any machine that has Nix, with the sandbox on or off: it
# needs no network, no nixpkgs, and no shell before a program runs.
#
# A package is the folder NAME-VERSION beside this file, linked into its store path by Nix's own
# buildenv. The files keep their execute bits on the way, so those in bin must have them.
{ system ? builtins.currentSystem }:

let
  package = { pname, version, description, needs ? [ ] }:
    let
      name = "${pname}-${version}";
      files = builtins.path { path = ./. + "/${name}"; name = "${name}-files"; };
      about = builtins.toFile "${name}.json"
        (builtins.toJSON { inherit pname version description; });
    in
    link {
      inherit name pname version;
      # Of one tree, bin would be a link to its folder; of two it is a folder of links to programs,
      # by which a program finds the store path that it is linked from.
      trees = [ files "${files}/." ];
      # The one link that buildenv makes where it is told to, and leaves out of a profile: a program
      # finds through it what it needs, and the profile doesn't hold that twice.
      manifest =
        if needs == [ ] then about
        else link { name = "${name}-needs"; trees = needs; manifest = about; };
    } // { meta = { inherit description; }; };

  link = { trees, ... }@attributes:
    derivation (removeAttrs attributes [ "trees" ] // {
      system = "builtin";
      builder = "builtin:buildenv";
      # Where two trees have the same file, that of the first is taken.
      derivations = builtins.genList (i: [ "true" (5 + i) 1 (builtins.elemAt trees i) ])
        (builtins.length trees);
      preferLocalBuild = true;
      allowSubstitutes = false;
    });
in
rec {
  hello = hello_2_12;

  hello_2_12 = package {
    pname = "hello";
    version = "2.12.1";
    description = "greets the world, or whom it is told to";
  };

  hello_2_10 = package {
    pname = "hello";
    version = "2.10.0";
    description = "greets the world, the way it used to";
  };

  fortune = package {
    pname = "fortune";
    version = "1.2.0";
    description = "says something wise about software";
  };

  parrot = package {
    pname = "parrot";
    version = "1.0.0";
    description = "repeats what it is told";
  };

  oracle = package {
    pname = "oracle";
    version = "1.0.0";
    description = "a parrot that tells your fortune";
    needs = [ fortune parrot ];
  };
}
