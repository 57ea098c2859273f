# pkgd in one container. docker build --tag pkgd . and docs/operations.md, "In a container".
FROM debian:bookworm-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates nix-bin python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

# One user owns the store, so that Nix needs neither root nor a daemon. It is at /nix rather than in
# a STORE_DIR: what binary caches supply only fits there. A container may not make the namespaces
# that Nix's sandbox is of: SECURITY.md says what follows from building without it.
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /app/data pkgd \
 && mkdir --parents /app/data /etc/nix /nix \
 && chown pkgd:pkgd /app/data /nix \
 && echo 'sandbox = false' >/etc/nix/nix.conf

WORKDIR /app
COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY . ./

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    APP_ENV=production \
    BIND=0.0.0.0
VOLUME ["/app/data", "/nix"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
  CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', 8000)}/readyz\", timeout=9)"]

# root for as long as it takes to hand the volumes over, and the user pkgd from then on
ENTRYPOINT ["/app/deploy/entrypoint"]
CMD ["sh", "-c", "flask --app app init-db && exec gunicorn 'app:create_app()'"]
