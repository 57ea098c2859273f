# The Semantic Version that stands for a catalog's spelling of a version: the same rules as in
# versions.py, which explains them. They are needed here to find a version within one evaluation.
let
  inherit (builtins)
    concatMap concatStringsSep elem elemAt filter genList hashString head isString length match
    replaceStrings split stringLength substring;

  words = builtins.fromJSON (builtins.readFile ./prereleases.json);

  characters = text: genList (i: substring i 1 text) (stringLength text);
  lower = replaceStrings
    (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (characters "abcdefghijklmnopqrstuvwxyz");

  shortened = limit: text:
    if stringLength text <= limit then text
    else "${substring 0 (limit - 9) text}-${substring 0 8 (hashString "sha256" text)}";

  numeral = "(0|[1-9][0-9]*)";
  identifier = "(${numeral}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)";
  semantic = "${numeral}[.]${numeral}[.]${numeral}(-${identifier}([.]${identifier})*)?"
    + "([+][0-9A-Za-z-]+([.][0-9A-Za-z-]+)*)?";
  isSemantic = text: stringLength text <= 64 && match semantic text != null;

  withoutV = text: let bare = match "[vV]([0-9].*)" text; in if bare == null then text else head bare;
  withoutZeros = text: head (match "0*([0-9]+)" text);

  # Take up to three numbers from the beginning of a text, the first without a dot before it.
  numbersOf = dot: count: text:
    let found = match "${dot}([0-9]{1,16})([^0-9].*)?" text; in
    if count == 0 || found == null then { numbers = [ ]; rest = text; }
    else
      let more = numbersOf "[.]" (count - 1) (if elemAt found 1 == null then "" else elemAt found 1);
      in { inherit (more) rest; numbers = [ (withoutZeros (head found)) ] ++ more.numbers; };

  # Return where the words of a pre-release begin in what follows the numbers, or null.
  startOfPrerelease = hasNumbers: rest:
    let
      text = lower rest;
      parts = split "([a-z]+)" text;
      isShort = at: position:
        let next = elemAt parts (at + 1); in
        hasNumbers
        && elem (substring position (stringLength (head (elemAt parts at))) rest) words.short
        && match "([.][0-9]+)*[^0-9a-z]?" (substring 0 position text) != null
        && match "[0-9]{1,3}([^0-9].*)?" next != null
        # Digits with a letter after them are part of a hash.
        && (at + 2 == length parts || match "[0-9]+" next == null);
      search = at: position:
        if at == length parts then null
        else if isString (elemAt parts at)
        then search (at + 1) (position + stringLength (elemAt parts at))
        else
          let word = head (elemAt parts at); in
          if elem word words.long || isShort at position then position
          else search (at + 1) (position + stringLength word);
    in
    search 0 0;

  identifiersOf = text:
    let
      clean = concatStringsSep "-" (filter isString (split "[^0-9A-Za-z.-]+" text));
      inner = match "[.-]*(.*[0-9A-Za-z])?[.-]*" clean;
      parts = if head inner == null then [ ] else filter isString (split "[.]" (head inner));
    in
    filter (part: part != "") parts;

  mapped = text:
    let
      parsed = numbersOf "" 3 text;
      numbers = parsed.numbers ++ genList (_: "0") (3 - length parsed.numbers);
      rest = parsed.rest;
      beforeEnd = head (split "[+]|unstable" (lower rest));
      end = stringLength beforeEnd;
      start = startOfPrerelease (rest != text) (substring 0 end rest);
      prerelease = if start == null then "" else substring start (end - start) rest;
      build =
        if start == null then [ rest ] else [ (substring 0 start rest) (substring end (-1) rest) ];
      clean = part: if match "[0-9]+" part == null then part else withoutZeros part;
      after = mark: parts: if parts == [ ] then "" else mark + concatStringsSep "." parts;
    in
    concatStringsSep "." numbers
    + after "-" (map clean (identifiersOf prerelease))
    + after "+" (concatMap identifiersOf build);
in
spelled:
let text = withoutV (shortened 128 spelled); in
if isSemantic text then text else shortened 64 (mapped text)
