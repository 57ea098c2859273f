# Find a package in the catalogs by its name and version. The result has one attribute for each
# question that evaluate.py asks; they are at the end of this file.
#
# All arguments are strings (--argstr), and none of them is ever parsed as Nix:
#   catalogs  a JSON list in order of preference: absolute paths, or "<name>" for one on NIX_PATH
#   name      an attribute, or an attribute path with dots (python3Packages.requests)
#   version   a Semantic Version; "" matches nothing
#
# Only what the answer needs is evaluated: nixpkgs has 80,000 attributes.
{ catalogs, name, version ? "", system ? builtins.currentSystem }:

let
  inherit (builtins)
    attrNames compareVersions concatLists concatMap elem elemAt filter findFile foldl' fromJSON
    functionArgs genList head intersectAttrs isAttrs isFunction isString length map match nixPath
    parseDrvName sort split stringLength substring tail tryEval;

  # tryEval catches `throw` and `assert`. Any other error ends the evaluation; evaluate.py then
  # evaluates each catalog alone.
  attempt = otherwise: value:
    let tried = tryEval value; in if tried.success then tried.value else otherwise;

  last = list: elemAt list (length list - 1);
  initial = list: genList (elemAt list) (length list - 1);

  # ---- versions

  # Return the Semantic Version that corresponds to a catalog's version, or null:
  #   "2.10" -> "2.10.0"   "v1.2.3" -> "1.2.3"   "9.6p1" -> "9.6.0-p1"   "2024.01.15" -> "2024.1.15"
  semver = text:
    let
      parts = match
        "[vV]?([0-9]+)([.]([0-9]+))?([.]([0-9]+))?([-_]?([A-Za-z][^+]*)|[-_]([0-9][^+]*))?([+].+)?"
        text;
      part = i: let value = elemAt parts i; in if value == null then "" else value;
      number = i: head (match "0*([0-9]+)" (if part i == "" then "0" else part i));
      before = part 6 + part 7;
    in
    if parts == null then null
    else "${number 0}.${number 2}.${number 4}${if before == "" then "" else "-${before}"}${part 8}";

  keyOf = offer: if offer.semver == null then offer.version else offer.semver;

  isWanted = candidate:
    version != "" && (candidate.version == version || semver candidate.version == version);

  # ---- derivations

  nameOf = drv: attempt "" (drv.pname or (parseDrvName (drv.name or "")).name);
  versionOf = drv:
    let own = attempt "" (let v = drv.version or ""; in if isString v then v else "");
    in if own != "" then own else attempt "" (parseDrvName (drv.name or "")).version;

  # Return the outputs to install, the main one first.
  outputsOf = drv:
    let
      main = drv.outputName or "out";
      there = drv.outputs or [ "out" ];
      chosen = filter (output: elem output there) (drv.meta.outputsToInstall or [ ]);
      others = filter (output: output != main) chosen;
    in
    if drv.outputSpecified or false || chosen == [ ] then [ main ]
    else if others == chosen then chosen
    else [ main ] ++ others;

  # ---- catalogs

  load = catalog:
    let
      channel = match "<(.+)>" catalog;
      value = import (if channel == null then /. + catalog else findFile nixPath (head channel));
      # Without these, nixpkgs reads the configuration in the home directory.
      settings = { inherit system; config = { }; overlays = [ ]; };
      arguments = intersectAttrs (functionArgs value) settings;
      set = if isFunction value then value arguments else value;
    in
    if isAttrs set then set else throw "catalog ${catalog} is not a set of packages";

  # Return the innermost set that `name` leads to, the prefix of its attributes, and the rest of
  # `name`, which is the attribute to look up in it.
  scopeOf = catalog:
    let
      set = load catalog;
      parts = filter isString (split "[.]" name);
      into = outer: part:
        attempt null (if isAttrs outer && outer ? ${part} then outer.${part} else null);
      inner = foldl' into set (initial parts);
      leaf = last parts;
    in
    if set ? ${name} || length parts == 1 || !isAttrs inner
    then { inherit set; prefix = ""; leaf = name; }
    else {
      inherit leaf;
      set = inner;
      prefix = substring 0 (stringLength name - stringLength leaf) name;
    };

  # Return the attributes that are `leaf` with a version or a channel appended, such as
  #   nodejs_20  openjdk17  python3_11  nginxMainline  foo-1_2
  siblingsIn = set: leaf:
    let
      tag = "[0-9][0-9_.]*|[Ss]table|[Uu]nstable|[Mm]ainline|[Ll]atest|[Ll]ts|LTS|[Ee]sr|[Cc]urrent"
        + "|[Ll]egacy|[Bb]eta|[Gg]it|[Oo]ld";
      suffix = "([_-]?(${tag}))+";
      size = stringLength leaf;

      # attrNames is sorted: names that begin with the leaf are adjacent, and "~" sorts after every
      # character of a suffix. Binary search finds both ends.
      names = attrNames set;
      position = bound: from: to:
        let middle = (from + to) / 2; in
        if from == to then from
        else if elemAt names middle < bound then position bound (middle + 1) to
        else position bound from middle;
      first = position leaf 0 (length names);
      end = position "${leaf}~" first (length names);
    in
    filter (attr: match suffix (substring size (-1) attr) != null)
      (genList (i: elemAt names (first + i)) (end - first));

  # Return the attribute of this name and its siblings, as two lists: the second is not evaluated if
  # the first has the package. An attribute that throws (removed, renamed) is a refused candidate.
  lookUp = catalog:
    let
      # One binding: `inherit (scopeOf catalog) set leaf` would load the catalog twice.
      scope = scopeOf catalog;
      set = scope.set;
      leaf = scope.leaf;
      candidate = attr:
        let
          value = set.${attr};
          tried = tryEval (isAttrs value && (value.type or null) == "derivation");
          isPackage = tried.success && tried.value;
        in
        {
          inherit catalog isPackage;
          attr = scope.prefix + attr;
          refused = !tried.success;
          drv = value;
          version = if isPackage then versionOf value else "";
        };
      direct = if set ? ${leaf} then [ (candidate leaf) ] else [ ];
      names = [ leaf ] ++ map (found: nameOf found.drv) (filter (found: found.isPackage) direct);
      isRelated = found: found.isPackage && elem (nameOf found.drv) names;
    in
    [ direct (filter isRelated (map candidate (siblingsIn set leaf))) ];

  # ---- answers

  search = groups:
    let found = filter (candidate: candidate.isPackage && isWanted candidate) (head groups); in
    if groups == [ ] then null else if found != [ ] then head found else search (tail groups);

  groups = concatMap lookUp (fromJSON catalogs);
  hit = search groups;
  all = concatLists groups;
  refused = filter (candidate: candidate.refused) all;

  found = {
    inherit (hit) catalog attr version;
    pname = nameOf hit.drv;
    outputs = attempt [ "out" ] (let list = outputsOf hit.drv; in builtins.deepSeq list list);
  };
in
rec {
  # Whether a catalog has the package. The derivation is not evaluated, so that this is true for a
  # package that its catalog refuses to provide.
  probe = hit != null;

  # Every version of this name, and whether the catalogs refuse some attribute of this name.
  offers = {
    isRefused = refused != [ ];
    versions = sort
      (a: b: compareVersions (keyOf a) (keyOf b) > 0)
      (map
        (found: { inherit (found) catalog attr version; semver = semver found.version; })
        (filter (candidate: candidate.version != "") all));
  };

  # The instantiated derivation. Without one: the offers or, if there are none because the catalog
  # refuses the attribute, the error by which it does.
  answer =
    if hit != null then { found = found // { inherit (hit.drv) drvPath; }; }
    else if offers.versions == [ ] && refused != [ ] then (head refused).drv
    else { inherit offers; };

  # The names in the same set, to suggest similar ones.
  names = concatMap
    (catalog: let scope = scopeOf catalog; in map (attr: scope.prefix + attr) (attrNames scope.set))
    (fromJSON catalogs);
}
