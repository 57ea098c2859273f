# Find a package in the catalogs by its name and version. The result has one attribute for each
# question that evaluate.py asks; they are at the end of this file.
#
# All arguments are strings (--argstr), and none of them is ever parsed as Nix:
#   catalogs  a JSON list in order of preference: each has a name, and as its place an absolute path,
#             or "<name>" for one on NIX_PATH
#   name      an attribute, or an attribute path with dots (python3Packages.requests)
#   version   a Semantic Version; "" matches nothing
#   allowed   JSON with what nixpkgs may offer beyond its rules: unfree, broken (true or false) and
#             insecure (a list of names with versions, such as openssl-1.0.2u)
#   avoided   JSON with the attributes of each catalog, by its name, of which it is known that they
#             can't be instantiated: they are not chosen where another one fits
#   wanted    a JSON list. For `found`, each has a name, a version and avoided, as above but no JSON.
#             What the survey of a catalog asks for: each has as its set a list of the attributes
#             that lead there, [] for the catalog itself, and attrs, those in it
#
# Only what the answer needs is evaluated: nixpkgs has 80,000 attributes.
{ catalogs, name ? "", version ? "", allowed ? "{}", avoided ? "{}", wanted ? "[]"
, system ? builtins.currentSystem }:

let
  inherit (builtins)
    any attrNames concatLists concatMap concatStringsSep deepSeq elem elemAt filter findFile foldl' fromJSON
    functionArgs genList head intersectAttrs isAttrs isFunction isList isString length map match
    nixPath parseDrvName pathExists readFile split stringLength substring tail toJSON trace tryEval typeOf;

  # tryEval catches `throw` and `assert`. Any other error ends the evaluation; evaluate.py then
  # evaluates each catalog alone.
  attempt = otherwise: value:
    let tried = tryEval value; in if tried.success then tried.value else otherwise;

  last = list: elemAt list (length list - 1);
  initial = list: genList (elemAt list) (length list - 1);

  semantic = import ./versions.nix;

  # ---- derivations

  # Of a refused package, nixpkgs before 2020 has no other name than that in `meta`.
  fullNameOf = drv:
    let name = attempt "" (drv.name or ""); in
    if name != "" then name else attempt "" (drv.meta.name or "");
  nameOf = drv: attempt "" (drv.pname or (parseDrvName (fullNameOf drv)).name);
  versionOf = drv:
    let own = attempt "" (let v = drv.version or ""; in if isString v then v else "");
    in if own != "" then own else attempt "" (parseDrvName (fullNameOf drv)).version;

  # Return why a catalog refuses a package, by the rule of nixpkgs that comes first; null if it
  # doesn't. Nothing here evaluates the derivation, which would end in an error without a reason.
  refusalOf = drv: if attempt true (drv.meta.available or true) then null else reasonIn drv;
  reasonIn = drv:
    let
      meta = attempt { } drv.meta;
      licenses = let given = meta.license or [ ]; in if isList given then given else [ given ];
      is = flag: otherwise: attempt false (meta.${flag} or otherwise);
    in
    if !allow.unfree && is "unfree" (any (license: !(license.free or true)) licenses) then "unfree"
    else if !allow.broken && is "broken" false then "broken"
    else if is "unsupported" false then "unsupported_platform"
    else if is "insecure" (meta.knownVulnerabilities or [ ] != [ ]) then "insecure"
    else "unsupported_platform";

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

  # Return what a download needs of a derivation, which this instantiates.
  instantiated = drv: {
    inherit (drv) drvPath;
    outputs = attempt [ "out" ] (let list = outputsOf drv; in deepSeq list list);
  };

  # ---- catalogs

  allow = { unfree = false; broken = false; insecure = [ ]; } // fromJSON allowed;
  rules = { allowUnfree = allow.unfree; allowBroken = allow.broken; }
    // (if allow.insecure == [ ] then { } else { permittedInsecurePackages = allow.insecure; });
  noRules = {
    allowUnfree = true;
    allowBroken = true;
    allowUnsupportedSystem = true;
    allowInsecurePredicate = _: true;
  };

  placeOf = catalog:
    let channel = match "<(.+)>" catalog.place; in
    if channel == null then /. + catalog.place else findFile nixPath (head channel);

  # Before 2017, nixpkgs threw for a package that it refuses; without its rules, it does not.
  throwsByRules = catalog: !pathExists (placeOf catalog + "/pkgs/stdenv/generic/check-meta.nix");

  # Return a candidate that throws as the refused package that it is without the rules, if it is.
  unruled = catalog: found: strict: value:
    let lax = found value; in
    if !strict.throws || !throwsByRules catalog || !lax.isPackage then strict
    else lax // { inherit (strict) drv throws; pname = nameOf value; reason = reasonIn value; };

  load = config: catalog:
    let
      value = import (placeOf catalog);
      # Without these, nixpkgs reads the configuration in the home directory.
      settings = { inherit system config; overlays = [ ]; };
      arguments = intersectAttrs (functionArgs value) settings;
      set = if isFunction value then value arguments else value;
    in
    if isAttrs set then set else throw "catalog ${catalog.name} is not a set of packages";

  # Each is evaluated once, however many names are looked up in it.
  loaded = map (one: one // { ruled = load rules one; unruled = load noRules one; }) (fromJSON catalogs);

  # Return the innermost set that `name` leads to, the prefix of its attributes, and the rest of
  # `name`, which is the attribute to look up in it.
  scopeOf = name: set:
    let
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
  #   nodejs_20  openjdk17  python3_11  nginxMainline  foo-1_2  nodejs-6_x  erlangR19
  siblingsIn = set: leaf:
    let
      rule = fromJSON (readFile ./siblings.json);
      tags = concatStringsSep "|" ([ "${rule.number}x?" ] ++ rule.words);
      suffix = "([_-]?(${tags}))+";
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

  # buildEnv and many other functions of nixpkgs are sets that can be called.
  isFunctor = value: isAttrs value && value ? __functor;

  candidate = catalog: prefix: attr: value:
    let
      tried = tryEval (isAttrs value && (value.type or null) == "derivation");
      isPackage = tried.success && tried.value;
    in
    {
      inherit isPackage;
      catalog = catalog.name;
      attr = prefix + attr;
      throws = !tried.success;
      drv = value;
      spelled = if isPackage then versionOf value else "";
      fullName = if isPackage then fullNameOf value else "";
      reason = if isPackage then refusalOf value else null;
      kind = if !tried.success then "error" else if isFunctor value then "lambda" else typeOf value;
    };

  # Return the attribute of this name and its siblings, as two lists: the second is not evaluated if
  # the first has the package. An attribute that throws (removed, renamed) is a refused candidate.
  lookUp = name: catalog:
    let
      scope = scopeOf name catalog.ruled;
      set = scope.set;
      leaf = scope.leaf;
      found = candidate catalog scope.prefix;
      without = attempt null (scopeOf name catalog.unruled).set.${leaf};
      strict = found leaf set.${leaf};
      direct = if set ? ${leaf} then [ (unruled catalog (found leaf) strict without) ] else [ ];
      names = [ leaf ] ++ map pnameOf (filter (one: one.isPackage) direct);
      isRelated = one: one.isPackage && elem (pnameOf one) names;
    in
    [ direct (filter isRelated (map (attr: found attr set.${attr}) (siblingsIn set leaf))) ];

  # ---- the survey of a whole catalog

  setIn = path: outer:
    let
      into = outer: part: attempt null (if isAttrs outer then outer.${part} or null else null);
      inner = foldl' into outer path;
    in
    if isAttrs inner then inner else { };

  first = head loaded;

  # Return facts about an attribute of the set at `path`, where it is without the rules, too.
  factOf = path:
    let
      found = candidate first "";
      set = setIn path first.ruled;
      lax = setIn path first.unruled;
    in
    attr:
    let
      strict = found attr (set.${attr} or (throw "gone"));
      one = unruled first (found attr) strict (attempt null (lax.${attr} or null));
      meta = (if one.throws then lax else set).${attr}.meta or { };
      text = limit: get: attempt null (textOf limit (get meta));
    in
    {
      inherit (one) attr isPackage throws spelled reason;
      pname = if one.isPackage then pnameOf one else "";
      version = semantic one.spelled;
      isSet = !one.isPackage && one.kind == "set" && attempt false (one.drv.recurseForDerivations or false == true);
    } // (if !one.isPackage then { } else {
      description = text 2000 (meta: meta.description or null);
      homepage = text 2000 (meta: let all = meta.homepage or null; in if isList all && all != [ ] then head all else all);
      license = text 800 (meta: licenseOf (meta.license or [ ]));
    });

  # Return a text, cut at `limit` bytes but within no character of UTF-8; null if it is no text.
  textOf = limit: value: if isString value then cut limit value else null;
  cut = limit: text:
    let next = substring limit 1 text; in
    if next > "~" && next < "À" then cut (limit - 1) text else substring 0 limit text;

  # Return the names of licences, as short as there are.
  licenseOf = given:
    let
      names = license:
        if isString license then [ license ]
        else filter isString (map (field: license.${field} or null) [ "spdxId" "shortName" "fullName" ]);
      first = license: let all = attempt [ ] (names license); in if all == [ ] then [ ] else [ (head all) ];
      all = concatMap first (if isList given then given else [ given ]);
    in
    if all == [ ] then null else concatStringsSep ", " all;

  pnameOf = candidate: candidate.pname or (nameOf candidate.drv);

  # Tell what a function, given a set and an attribute in it, says of each that is wanted.
  tellAll = function:
    let tell = _: told: trace "pkgd:${toJSON told}" null; in
    foldl' tell null (concatMap (one: map (function one.set) one.attrs) (fromJSON wanted));

  # ---- answers

  shown = found: { inherit (found) catalog attr spelled reason; };

  about = { name, version, avoided }:
    let
      isWanted = candidate:
        version != "" && candidate.isPackage && semantic candidate.spelled == version;
      isFree = candidate:
        candidate.reason == null && !elem candidate.attr (avoided.${candidate.catalog} or [ ]);

      # Return the first that is wanted and may be had, else the first that is wanted.
      search = groups:
        let
          found = filter isWanted (head groups);
          free = filter isFree found;
          later = search (tail groups);
        in
        if groups == [ ] then null
        else if free != [ ] then head free
        else if found == [ ] || later != null && isFree later then later
        else head found;

      groups = concatMap (lookUp name) loaded;
      hit = search groups;
      all = concatLists groups;
      throwing = filter (candidate: candidate.throws) all;
      packages = filter (candidate: candidate.isPackage) all;
    in
    rec {
      # Every version of this name; whether the catalogs throw for some attribute of this name; and
      # the kinds of its attributes that are no packages.
      offers = {
        throws = throwing != [ ];
        versions = map shown packages;
        others = map (candidate: candidate.kind) (filter (candidate: !candidate.isPackage) all);
      };

      # The instantiated derivation, or why the catalog refuses it. Without one: the offers or, if
      # there are none because the catalog throws for the attribute, that error.
      answer =
        if hit != null && hit.reason != null then {
          refused = shown hit // { inherit (hit) fullName; };
        }
        else if hit != null then {
          found = shown hit // instantiated hit.drv // { pname = pnameOf hit; };
        }
        else if packages == [ ] && throwing != [ ] then (head throwing).drv
        else { inherit offers; };
    };
in
{
  inherit (about { inherit name version; avoided = fromJSON avoided; }) offers answer;

  # What is found of each that is wanted, null where there is nothing or that throws.
  found = map
    (one: attempt null (let found = (about one).answer.found or null; in deepSeq found found))
    (fromJSON wanted);

  # Write facts about attributes to stderr, each as soon as it is known: where an evaluation ends,
  # the attribute at fault follows the last one told.
  survey = tellAll factOf;

  # In the same way, what a download would find of each attribute, by what it would evaluate.
  derivations = tellAll (path:
    let set = setIn path first.ruled; in
    attr: { inherit attr; path = set.${attr}.outPath or null; } // instantiated set.${attr});

  # The names in each set.
  members = map (one: attrNames (setIn one.set first.ruled)) (fromJSON wanted);

  # The names in the same set, to suggest similar ones.
  names = concatMap
    (catalog:
      let scope = scopeOf name catalog.ruled; in
      map (attr: scope.prefix + attr) (attrNames scope.set))
    loaded;
}
