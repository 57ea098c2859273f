# A package that Nix builds by itself, without a shell: also in a sandbox, and on any machine.
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
