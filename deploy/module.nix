# The NixOS module: services.pkgd, with the hardening of deploy/pkgd.service.
#
# The Python packages are the tested versions, those of requirements-run.txt, fetched as wheels. Nix
# checks the hash of the wheels; if it differs, the build shows the right one.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkEnableOption mkIf mkOption types;

  cfg = config.services.pkgd;
  home = "/var/lib/pkgd";
  requirements = ../requirements-run.txt;
  source = builtins.path {
    name = "pkgd";
    path = ../.;
    filter = path: _: ! builtins.elem (baseNameOf path) [ ".git" ".venv" "data" "tests" ];
  };

  wheels = pkgs.stdenvNoCC.mkDerivation {
    name = "pkgd-wheels";
    nativeBuildInputs = [ cfg.python.pkgs.pip ];
    SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
    buildCommand = ''
      HOME=$TMPDIR pip download --no-cache-dir --only-binary :all: --dest $out -r ${requirements}
    '';
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = cfg.wheelsHash;
  };

  environment = pkgs.runCommand "pkgd-environment" { } ''
    ${cfg.python}/bin/python -m venv $out
    HOME=$TMPDIR $out/bin/pip install --no-index --find-links ${wheels} -r ${requirements}
  '';

  settings = {
    APP_ENV = "production";
    DATA_DIR = home;
    SECRET_KEY_FILE = cfg.secretKeyFile;
  } // cfg.settings;

  variables = {
    # The compiled parts of the wheels link to it.
    LD_LIBRARY_PATH = lib.makeLibraryPath [ pkgs.stdenv.cc.cc.lib ];
  } // lib.mapAttrs (_: toString) settings;

  flask = pkgs.writeShellScriptBin "pkgd-flask" ''
    cd ${source} && umask 077
    export ${lib.escapeShellArgs (lib.mapAttrsToList (name: value: "${name}=${value}") variables)}
    exec ${pkgs.util-linux}/bin/runuser -u pkgd -- ${environment}/bin/flask "$@"
  '';
in
{
  options.services.pkgd = {
    enable = mkEnableOption "pkgd, which takes a package from a name and a version to a program";

    secretKeyFile = mkOption {
      type = types.str;
      description = "The file with the secret key: 32 bytes or more, readable by the group pkgd.";
    };

    settings = mkOption {
      type = types.attrsOf (types.oneOf [ types.str types.int types.path ]);
      default = { };
      example = { TRUSTED_PROXIES = 1; CATALOGS = "<nixpkgs>"; };
      description = "Settings, by the names that README.md lists.";
    };

    listenStream = mkOption {
      type = types.str;
      default = "127.0.0.1:8000";
      description = "Where systemd listens for it, an address with a port, or the path of a socket.";
    };

    python = mkOption {
      type = types.package;
      default = pkgs.python3;
      defaultText = "pkgs.python3";
      description = "The Python to run on, 3.11 or newer.";
    };

    wheelsHash = mkOption {
      type = types.str;
      default = lib.fakeHash;
      defaultText = "lib.fakeHash";
      description = "The hash of the wheels; the first build shows it.";
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ flask ];

    users.users.pkgd = { isSystemUser = true; group = "pkgd"; inherit home; };
    users.groups.pkgd = { };

    # nginx reads it, and the files in it belong to nginx's group.
    systemd.tmpfiles.rules = mkIf (settings ? CACHE_ACCESS_DIR && config.services.nginx.enable) [
      "d ${settings.CACHE_ACCESS_DIR} 2750 pkgd ${config.services.nginx.group} -"
    ];

    systemd.sockets.pkgd = {
      description = "Where pkgd listens, for the proxy in front of it";
      wantedBy = [ "sockets.target" ];
      socketConfig = { ListenStream = cfg.listenStream; Backlog = 4096; };
    };

    systemd.services.pkgd = {
      description = "pkgd, from a package's name and version to a program that runs";
      wantedBy = [ "multi-user.target" ];
      wants = [ "nix-daemon.socket" "pkgd.socket" ];
      after = [ "network.target" "nix-daemon.socket" "pkgd.socket" "postgresql.service" ];
      startLimitIntervalSec = 0;
      path = [ config.nix.package pkgs.util-linux ];
      environment = variables // {
        NIX_PATH = "nixpkgs=${pkgs.path}";
        SECRET_KEY_FILE = "%d/secret_key";
      };

      serviceConfig = {
        Type = "notify";
        User = "pkgd";
        Group = "pkgd";
        WorkingDirectory = source;
        LoadCredential = "secret_key:${cfg.secretKeyFile}";
        StateDirectory = "pkgd";
        StateDirectoryMode = "0711";
        UMask = "0077";
        ExecStartPre = "-${environment}/bin/flask --app app init-db";
        TimeoutStartSec = "15min";
        ExecStart = "${environment}/bin/gunicorn app:create_app()";
        Restart = "always";
        RestartSec = 5;
        RestartPreventExitStatus = 78;
        KillMode = "mixed";
        TimeoutStopSec = 45;
        OOMPolicy = "continue";
        LimitNOFILE = 8192;

        AmbientCapabilities = "";
        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        PrivateUsers = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [ "@system-service" "~@privileged" "capset" ];
      };
    };
  };
}
