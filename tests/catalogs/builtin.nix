# A package that needs no shell, so that it builds on any machine, in a sandbox or without one.
{
  anywhere = derivation {
    name = "anywhere-1.0.0";
    pname = "anywhere";
    version = "1.0.0";
    type = "derivation";
    system = "builtin";
    builder = "builtin:buildenv";
    derivations = [ ];
    manifest = builtins.toFile "manifest" "";
  };
}
