# Packages that fail, or write odd logs. Their builders need /bin/sh, which Debian has outside the
# sandbox only.
let
  build = pname: version: script: derivation {
    name = "${pname}-${version}";
    inherit pname version;
    type = "derivation";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
    PATH = "/bin:/usr/bin:/usr/local/bin";
  };
in
{
  fails = build "fails" "1.0.0" ''
    for n in 1 2 3; do echo "step $n"; done
    echo "no rule to make target 'all'" >&2
    exit 2
  '';
  colourful = build "colourful" "1.0.0" ''
    printf '\033[31mred\033[0m caf\303\251 \377\376 end\n'
    mkdir $out
  '';
  wrong-hash = derivation {
    name = "wrong-hash-1.0.0";
    pname = "wrong-hash";
    version = "1.0.0";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo fetched > $out" ];
    PATH = "/bin:/usr/bin";
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = "0000000000000000000000000000000000000000000000000000000000000000";
  };
  unfree-by-rule = { type = "derivation"; version = "1.0.0"; name = "unfree-by-rule-1.0.0";
                     meta = { available = false; unfree = true; }; drvPath = throw "unfree"; };
  unfree = { type = "derivation"; name = "unfree-1.0.0"; pname = "unfree"; version = "1.0.0";
             drvPath = throw "unfree has a licence that is not allowed"; };
}
