# Build a profile: one tree of links to the files of the given packages. Nix's own buildenv builds
# it, which needs no nixpkgs, no shell and no network, and works in a sandbox or without one.
#
#   packages  the path of a JSON file: [ { "name", "version", "paths": [ store path, ... ] }, ... ]
#
# The manifest has nix-env's format, so that `nix-env --query` can list the packages. It refers to
# the store paths, so that a generation keeps them alive.
{ packages }:

let
  inherit (builtins)
    concatStringsSep elemAt fromJSON genList head length map readFile replaceStrings storePath
    toFile toJSON;

  # All packages have the same priority, so that buildenv refuses two with the same file; it would
  # otherwise take the file of one of them.
  priority = 5;

  wanted = map (package: package // { paths = map storePath package.paths; })
    (fromJSON (readFile (/. + packages)));

  # A JSON string is a Nix string if each "$" is escaped.
  quote = text: replaceStrings [ "$" ] [ "\\$" ] (toJSON text);
  outputName = i: if i == 0 then "out" else "out${toString i}";

  element = { name, version, paths }:
    let
      numbers = genList (i: i) (length paths);
      outputs = concatStringsSep " " (map (i: quote (outputName i)) numbers);
      output = i: "${outputName i} = { outPath = \"${elemAt paths i}\"; };";
    in
    ''
      {
        type = "derivation";
        name = ${quote "${name}-${version}"};
        system = "unknown";
        outPath = "${head paths}";
        outputs = [ ${outputs} ];
        ${concatStringsSep " " (map output numbers)}
        meta = { priority = ${toString priority}; };
      }
    '';
in
derivation {
  name = "profile";
  system = "builtin";
  builder = "builtin:buildenv";
  manifest = toFile "env-manifest.nix" "[\n${concatStringsSep "" (map element wanted)}]\n";
  derivations = map (package: [ "true" priority (length package.paths) ] ++ package.paths) wanted;
  preferLocalBuild = true;
  allowSubstitutes = false;
}
