# The NixOS module of a machine that follows a profile: services.pkgd-sync, with the hardening of
# deploy/pkgd-sync.service and the times of deploy/pkgd-sync.timer.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkEnableOption mkIf mkOption types;

  cfg = config.services.pkgd-sync;

  pkgctl = pkgs.python3Packages.buildPythonApplication {
    pname = "pkgctl";
    version = "1.0.0";
    pyproject = true;
    src = builtins.path {
      name = "pkgd";
      path = ../.;
      filter = path: _: ! builtins.elem (baseNameOf path) [ ".git" ".venv" "data" "tests" ];
    };
    build-system = [ pkgs.python3Packages.setuptools ];
    dependencies = with pkgs.python3Packages; [ click requests rich ];
    # Those of nixpkgs are not the tested ones; pkgctl uses little of them.
    pythonRelaxDeps = true;
  };

  options = [ "--once" ]
    ++ lib.optionals (cfg.check != null) [ "--check" cfg.check ]
    ++ cfg.extraOptions;
in
{
  options.services.pkgd-sync = {
    enable = mkEnableOption "following a profile of a pkgd server";

    url = mkOption {
      type = types.str;
      example = "https://pkgd.example.org";
      description = "The server's URL.";
    };

    profile = mkOption {
      type = types.str;
      default = "default";
      description = "The profile to follow; it is kept at /nix/var/nix/profiles/pkgd-NAME.";
    };

    tokenFile = mkOption {
      type = types.str;
      example = "/etc/pkgd/sync_token";
      description = "A file outside the store with a token of scope sync.";
    };

    check = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "A command that has to pass on each generation.";
    };

    extraOptions = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "--name" "web-1" ];
      description = "More options of pkgctl sync.";
    };

    package = mkOption {
      type = types.package;
      default = pkgctl;
      defaultText = "pkgctl of this folder";
      description = "The package with pkgctl.";
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    systemd.timers.pkgd-sync = {
      description = "Follow a profile of pkgd";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "10s";
        OnUnitInactiveSec = "50s";
        RandomizedDelaySec = "10s";
        AccuracySec = "1s";
      };
    };

    systemd.services.pkgd-sync = {
      description = "A round of following a profile of pkgd";
      wants = [ "network-online.target" "nix-daemon.socket" ];
      after = [ "network-online.target" "nix-daemon.socket" ];
      path = [ config.nix.package ];
      environment = {
        HOME = "%S/pkgd-sync";
        NIX_REMOTE = "daemon";
        PKGCTL_TOKEN_FILE = "%d/token";
        PKGCTL_URL = cfg.url;
      };

      serviceConfig = {
        Type = "oneshot";
        LoadCredential = "token:${cfg.tokenFile}";
        StateDirectory = "pkgd-sync";
        StateDirectoryMode = "0700";
        ReadWritePaths = "/nix/var/nix/profiles";
        UMask = "0022";
        ExecStart = "${cfg.package}/bin/pkgctl sync ${lib.escapeShellArgs options} ${cfg.profile}";
        TimeoutStartSec = "90min";

        AmbientCapabilities = "";
        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [ "@system-service" "~@privileged" ];
      };
    };
  };
}
