# Packages that a catalog has and refuses, in the ways of nixpkgs: `meta.available` since 2018, an
# attribute that throws before.
{ config ? { }, old ? false }:
let
  refuse = reason: package: throw (
    "Package ‘${package.name}’ in ‘/pkgs/${package.pname}.nix:7’ ${reason}, refusing to evaluate.");
  make = pname: version: meta: reason: isAllowed:
    let
      package = derivation {
        inherit pname version;
        name = "${pname}-${version}";
        system = "builtin";
        builder = "builtin:none";
      };
      checked = {
        inherit (package) name pname version type outputName system;
        meta = meta // { available = isAllowed; };
        drvPath = if isAllowed then package.drvPath else refuse reason package;
      };
    in
    if !old then checked else if isAllowed then package // { inherit meta; } else refuse reason package;
  permitted = config.permittedInsecurePackages or [ ];
  unsupported = config.allowUnsupportedSystem or false;
in
rec {
  unfree = make "unfree" "1.0" { license.free = false; } "has an unfree license" (config.allowUnfree or false);
  broken = make "broken" "1.0" { broken = true; } "is marked as broken" (config.allowBroken or false);
  insecure = make "insecure" "1.0" { knownVulnerabilities = [ "CVE" ]; } "is marked as insecure"
    (builtins.elem "insecure-1.0" permitted || config ? allowInsecurePredicate);
  foreign = make "foreign" "1.0" { platforms = [ ]; unsupported = true; } "is not supported on x" unsupported;
  foreign-old = make "foreign-old" "1.0" { platforms = [ ]; } "is not supported on x" unsupported;
  needy = derivation { name = "needy-1.0"; system = "builtin"; builder = "x"; needs = unfree.drvPath; };
  gone = throw "gone was removed, since nobody maintains it";
  fine = make "fine" "1.0" { } "" true;
}
