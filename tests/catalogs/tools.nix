# Small tools. Their builders need /bin/sh, which Debian has outside the sandbox only.
let
  tool = pname: version: program: derivation {
    name = "${pname}-${version}";
    inherit pname version;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" ''
      mkdir -p $out/bin
      printf '#!/bin/sh\necho %s\n' "${pname} ${version}" > $out/bin/${program}
      chmod +x $out/bin/${program}
    '' ];
    PATH = "/bin:/usr/bin";
  };
  numbered = map (n: { name = "tool-${toString n}"; value = tool "tool-${toString n}" "1.0.0" "tool-${toString n}"; })
    (builtins.genList (n: n) 20);
in
builtins.listToAttrs numbered // {
  app = tool "app" "2.0.0" "app";
  app_1 = tool "app" "1.0.0" "app";
  clash-one = tool "clash-one" "1.0.0" "clash";
  clash-two = tool "clash-two" "1.0.0" "clash";

  parted = derivation {
    name = "parted-1.0.0";
    pname = "parted";
    version = "1.0.0";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "mkdir -p $out/share $bin/bin; echo data > $out/share/data; echo : > $bin/bin/parted" ];
    outputs = [ "out" "bin" ];
    PATH = "/bin:/usr/bin";
  } // { meta.outputsToInstall = [ "bin" "out" ]; };
}
