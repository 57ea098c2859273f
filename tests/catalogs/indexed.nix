# A catalog with every kind of attribute that an index must tell apart. With `old`, it throws for
# what it refuses, as nixpkgs before 2017.
{ config ? { }, old ? false }:
let
  refused = config.allowUnfree or false;
  make = pname: version: meta: derivation {
    inherit pname version;
    name = "${pname}-${version}";
    system = "builtin";
    builder = "builtin:none";
  } // { inherit meta; };
  plain = pname: version: make pname version { description = "The program ${pname}"; };
  unfree = pname: version:
    if old && !refused then throw "Package ‘${pname}-${version}’ has an unfree license, refusing to evaluate."
    else make pname version { license.free = false; available = refused; description = "Not free"; };
  set = recurses: attrs: attrs // (if recurses then { recurseForDerivations = true; } else { });
in
{
  # names and siblings
  node = plain "node" "20.1";
  node_18 = plain "node" "18.2";
  node_22 = plain "node" "22.0-rc1";
  node-latest = plain "node" "21";
  nodeLTS = plain "node" "20.1";
  node_9_x = plain "other" "9.0";
  node_modules = plain "node" "1.0";
  compiler = plain "compiler-wrapper" "13";
  compiler12 = plain "compiler-wrapper" "12.3";
  compiler_old = plain "compiler" "4";
  jdk8 = plain "jdk" "8u121";
  jdk17 = plain "jdk" "17.0.1";
  serverMainline = plain "server" "1.27";
  "dotted.name" = plain "dotted" "1";
  "dotted.name_2" = plain "dotted" "2";
  "1st" = plain "first" "1";
  R = plain "R" "4.3";
  unversioned = derivation { name = "unversioned"; system = "builtin"; builder = "builtin:none"; };
  odd = plain "odd" "unstable-2024-01-15";
  caf-e = make "caf-e" "1.0" {
    description = "Un café,\n pour tous: 100% \"free\"_1";
    homepage = [ "https://one.example" "https://two.example" ];
    license = [ { spdxId = "MIT"; shortName = "mit"; } "BSD" { fullName = "Other"; } { } ];
  };
  wordy = make "wordy" "1.0" {
    description = builtins.concatStringsSep "" (builtins.genList (_: "é words ") 400);
    homepage = throw "none";
    license = { shortName = "GPL"; };
  };
  mute = make "mute" "1.0" { description = throw "no"; license = 7; };

  # refusals and shadowing
  closed = unfree "closed" "1.0";
  closed_1 = plain "closed" "1.0";
  closed_2 = unfree "closed" "2.0";
  twice = plain "twice" "1.0";
  twice_1 = plain "twice" "1.0.0";
  twice_2 = plain "twice" "1.0";
  hidden = unfree "hidden" "1.0";
  hidden_1 = plain "hidden" "1.0.0";
  hidden_2 = plain "hidden" "1";
  sealed = unfree "sealed" "3.0";
  sealed_3 = unfree "sealed" "3.0.0";
  aliased = unfree "real" "1.0";
  aliased_2 = plain "real" "2.0";

  # attributes that are no packages
  gone = throw "gone was removed";
  gone_1 = plain "gone" "1.0";
  lost = throw "lost was removed";
  helper = x: x;
  helper_1 = plain "helper" "1.0";
  number = 7;
  broken = 1 + "a";
  broken_2 = plain "broken" "2.0";
  breaks = plain "breaks" "1.0";
  breaks_2 = builtins.abort "cannot go on";

  # sets
  tools = set true {
    tool = plain "tool" "1.0";
    tool_2 = plain "tool" "2.0";
    "to.ol" = plain "to.ol" "1";
    fails = builtins.abort "cannot go on";
    deep = set true { tool = plain "tool" "3.0"; };
  };
  tools_1 = set true { "2" = plain "tools" "2.0"; };
  wanted = set false { tool = plain "tool" "5.0"; };
  unwanted = set false { tool = plain "tool" "6.0"; };
  empty = set true { };
  ruined = set true (builtins.abort "cannot go on");
}
