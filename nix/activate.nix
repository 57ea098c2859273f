# A profile: the given packages in one tree of links, by Nix's own buildenv, so that neither nixpkgs
# nor a shell nor a network is needed, with the sandbox on or off.
#
#   packages  the path of a JSON file: [ { "name", "version", "paths": [ store path, ... ] }, ... ]
#
# Its manifest has the form of nix-env's own. That is how `nix-env --query` can list it, and since
# the manifest names the store paths, a generation keeps them alive.
{ packages }:

let
  inherit (builtins)
    concatStringsSep elemAt fromJSON genList head length map readFile replaceStrings storePath
    toFile toJSON;

  # The same for all: two packages with a file in common are refused, not laid one over the other.
  priority = 5;

  wanted = map (package: package // { paths = map storePath package.paths; })
    (fromJSON (readFile (/. + packages)));

  # A JSON string is a Nix string once no "${" is left in it.
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
