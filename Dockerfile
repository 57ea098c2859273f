# pkgd in one container: docker build -t pkgd . && docker run --rm -p 8000:8000 pkgd
# That starts in development, with no settings; docs/operations.md, "In a container", is for production.
FROM debian:trixie-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates nginx-light nix-bin python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

# One user owns the store, so that Nix needs neither root nor a daemon. The store is at /nix and not
# in a STORE_DIR because paths from binary caches work only there. A container may not create the
# namespaces of Nix's sandbox: SECURITY.md says what builds without it can do.
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /app/data pkgd \
 && mkdir --parents /app/data /etc/nix /nix /run/pkgd \
 && chown pkgd:pkgd /app/data /nix /run/pkgd \
 && echo 'sandbox = false' >/etc/nix/nix.conf

WORKDIR /app
COPY requirements-run.txt ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements-run.txt
COPY . ./

# nginx listens on port 8000, and is the one proxy in front of gunicorn.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BIND=unix:/run/pkgd/gunicorn.sock \
    TRUSTED_PROXIES=1
VOLUME ["/app/data", "/nix"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=9)"]

# The entrypoint starts as root, gives the volumes to the user pkgd, and continues as that user.
ENTRYPOINT ["/app/deploy/entrypoint"]
CMD ["sh", "-c", "flask --app app init-db && exec deploy/serve"]
