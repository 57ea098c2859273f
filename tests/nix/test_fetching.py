"""Fetching: downloads that fail are told by their URL and cause, apart from builds that fail."""

import os
from itertools import groupby

import pytest
from service import free_port
from support import at
from web import SHA256

import nix
from nix import BuildFailed, FetchFailed, HashMismatch
from nix.fetching import builder_fetch_fault, fetch_fault, fetched_url

CATALOG = """
let
  package = name: more: derivation ({
    inherit name;
    version = "1.0.0";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    fresh = toString ./.;
  } // more);
  build = name: script: package name { args = [ "-c" script ]; };
  fixed = hash: { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = hash; };
  fetch = name: url: hash: package name (fixed hash // {
    inherit url;
    system = "builtin";
    builder = "builtin:fetchurl";
  });
  fetchBy = name: url: script:
    package name (fixed "HASH" // { urls = [ url ]; args = [ "-c" script ]; });
in
rec { PACKAGES }
"""


class Trial:
    """Realises the package `thing` of a catalog, and records log and progress."""

    def __init__(self, store, folder):
        self.store, self.folder = store, folder
        self.log, self.progress, self.on_tick = b"", [], lambda: None

    def tick(self, log, progress):
        self.log += log
        self.progress.append(progress)
        self.on_tick()

    def realise(self, packages):
        catalog, tmp = self.folder / "catalog.nix", self.folder / "tmp"
        catalog.write_text(CATALOG.replace("PACKAGES", packages).replace("HASH", SHA256))
        found = nix.resolve(self.store, at(catalog), "thing", "1.0.0", tmp=tmp)
        root = self.folder / "roots" / "1"
        limits = {"build_seconds": 60, "silence_seconds": 60}
        return nix.realise(
            self.store, found.drv_path, "out", root, tmp=tmp, tick=self.tick, **limits
        )

    def fetch(self, url):
        return self.realise(f'thing = fetch "thing" "{url}" "{SHA256}";')

    def phases(self):
        return [phase for phase, _ in groupby(self.progress, lambda progress: progress.phase)]


@pytest.fixture
def trial(store, tmp_path):
    """A trial in the store that all tests share."""
    return Trial(store, tmp_path)


def first_line(caught):
    """Return the first line of the error that was caught."""
    return str(caught.value).partition("\n")[0]


@pytest.mark.parametrize(
    ("path", "cause", "is_transient"),
    [
        ("/404/x", "the server has nothing there (HTTP 404)", False),
        ("/403/x", "the server denies access (HTTP 403)", False),
        ("/429/x", "the server wants fewer requests (HTTP 429)", True),
        ("/503/x", "the server failed (HTTP 503)", True),
    ],
)
def test_a_status_is_told_with_the_url_first(trial, web, path, cause, is_transient):
    with pytest.raises(FetchFailed) as caught:
        trial.fetch(web.url + path)

    assert first_line(caught) == f"could not fetch {web.url}{path}: {cause}"
    assert caught.value.code == "fetch_failed"
    assert (caught.value.fault.is_transient, bool(caught.value.hint)) == (is_transient, True)


@pytest.mark.parametrize(
    ("url", "cause", "is_transient"),
    [
        ("http://127.0.0.1:{closed}/x", "the connection was refused", True),
        ("http://255.255.255.255/x", "the network is unreachable", True),
        ("http://nosuch.invalid/x", "the host's name can't be resolved (DNS)", True),
        ("https://127.0.0.1:{port}/x", "TLS failed", False),
        ("file:///nosuch/x", "there is no such file", False),
    ],
)
def test_the_causes_of_a_failed_download_are_told_apart(trial, web, url, cause, is_transient):
    url = url.format(closed=free_port(), port=web.server_port)

    with pytest.raises(FetchFailed) as caught:
        trial.fetch(url)

    assert first_line(caught) == f"could not fetch {url}: {cause}"
    assert caught.value.fault.is_transient == is_transient


@pytest.mark.parametrize(
    ("port", "cause"),
    [
        ("server_port", "the proxy http://127.0.0.1:{} refuses it"),
        ("closed", "through the proxy http://127.0.0.1:{}, the connection was refused"),
    ],
)
def test_a_proxy_is_named_without_its_credentials(trial, web, monkeypatch, port, cause):
    port = web.server_port if port == "server_port" else free_port()
    proxy = f"http://me:secret@127.0.0.1:{port}"
    monkeypatch.setenv("https_proxy", proxy)
    trial.store = nix.Store({**trial.store.environ, "https_proxy": proxy})

    with pytest.raises(FetchFailed) as caught:
        trial.fetch("https://nosuch.invalid/x")

    begin = f"could not fetch https://nosuch.invalid/x: {cause.format(port)}"
    assert first_line(caught).startswith(begin)
    assert "https_proxy" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "Failure when receiving data from the peer (56)",
            "the proxy http://p:1 refuses it, or the",
        ),
        ("(56) CONNECT tunnel failed, response 403", "the proxy http://p:1 refuses it"),
    ],
)
def test_each_version_of_nix_tells_of_a_proxy_that_refuses(monkeypatch, said, cause):
    monkeypatch.setenv("https_proxy", "http://p:1")

    fault = fetch_fault(f"unable to download 'https://x.invalid/': {said}")

    assert fault.cause.startswith(cause)


def test_a_wrong_hash_is_told_as_such(trial, web):
    with pytest.raises(HashMismatch):
        trial.realise(f'thing = fetch "wrong" "{web.url}/200/x" "{"0" * 64}";')


def test_a_source_that_can_not_be_fetched_is_named_with_what_needs_it(trial, web):
    with pytest.raises(FetchFailed) as caught:
        trial.realise(f"""
            source = fetch "source-2.0" "{web.url}/404/x" "{SHA256}";
            middle = build "middle" "cat ${{source}} >$out";
            thing = build "thing" "cat ${{middle}} >$out";
        """)

    first, second, third, *_ = str(caught.value).splitlines()
    assert first.startswith(f"could not fetch {web.url}/404/x: ")
    assert second == "thing needs source-2.0"
    assert third.startswith("builder for '")


FAILS = """
  echo; echo 'trying http://one.invalid/x'
  echo 'curl: (6) Could not resolve host: one.invalid'
  echo 'error: cannot download x from any mirror'
  exit 1
"""


def test_a_builder_that_fetches_is_told_by_the_url_it_tried(trial):
    with pytest.raises(FetchFailed) as caught:
        trial.realise(f"thing = fetchBy ''thing'' ''mirror://gnu/x'' ''{FAILS}'';")

    cause = "the host's name can't be resolved (DNS)"
    assert first_line(caught) == f"could not fetch http://one.invalid/x: {cause}"
    assert str(caught.value).endswith("> error: cannot download x from any mirror")


@pytest.mark.parametrize(
    "packages",
    [
        f"thing = build ''thing'' ''{FAILS}'';",
        "thing = fetchBy ''thing'' ''http://one.invalid/x'' ''echo corrupt; exit 1'';",
    ],
)
def test_a_builder_that_fails_otherwise_is_a_failed_build(trial, packages):
    with pytest.raises(BuildFailed):
        trial.realise(packages)


def test_while_a_source_is_fetched_the_phase_is_fetching(trial):
    def on_tick():
        if b"\nfetched" in trial.log:
            (trial.folder / "go").touch()

    trial.on_tick = on_tick
    wait = f"until [ -e {trial.folder}/go ]; do sleep 0.01; done"
    content = "printf 'what was asked for\\\\n' >$out"

    trial.realise(f"""
        source = fetchBy "source" "http://x.invalid/x" "echo; echo fetched; {wait}; {content}";
        thing = build "thing" "cat ${{source}} >$out";
    """)

    assert trial.phases() == ["fetching", "building", "rooting"]


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ('import (builtins.fetchurl "{}")', "/404/x.nix"),
        ('import (builtins.fetchTarball "{}")', "/404/x.tar.gz"),
        ('import (builtins.fetchGit {{ url = "{}"; ref = "main"; }})', "/404/x.git"),
        ('import (builtins.fetchGit {{ url = "{}"; ref = "main"; }})', "/403/x.git"),
    ],
)
def test_a_catalog_that_can_not_be_fetched_is_told_by_its_url(
    store, web, tmp_path, expression, path
):
    catalog = tmp_path / "catalog.nix"
    catalog.write_text(expression.format(web.url + path))

    with pytest.raises(FetchFailed) as caught:
        nix.resolve(store, at(catalog), "thing", "1.0.0", tmp=tmp_path / "tmp")

    assert first_line(caught).startswith(f"could not fetch {web.url}{path}")
    assert f"catalog {catalog}: " in str(caught.value)
    (failure,) = nix.offers(store, at(catalog), "thing").failures
    assert failure.code == "fetch_failed"


@pytest.mark.parametrize(
    ("said", "cause", "is_transient"),
    [
        ("Couldn't resolve proxy name (5)", "the proxy's name can't be resolved (DNS)", True),
        ("Received HTTP code 407 from proxy after CONNECT", "the proxy refuses it", False),
        (
            "CONNECT tunnel failed, response 502",
            "the proxy can't reach the server (HTTP 502)",
            True,
        ),
        ("HTTP error 418", "the server refused (HTTP 418)", False),
        ("Timeout was reached (28)", "the server did not answer in time", True),
        ("SSL peer certificate or SSH remote key was not OK (60)", "TLS failed", False),
        ("SSL connect error (35) Connection reset by peer", "the connection broke off", True),
        ("Number of redirects hit maximum amount (47)", None, False),
    ],
)
def test_a_download_of_nix_that_fails_has_its_cause(said, cause, is_transient):
    fault = fetch_fault(f"unable to download 'http://x.invalid/y': {said}")

    assert str(fault) == f"could not fetch http://x.invalid/y: {cause or said}"
    assert fault.is_transient == is_transient


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("curl: (22) The requested URL returned error: 404", "the server has nothing there"),
        ("curl: (7) Failed to connect to 1.2.3.4: Network is unreachable", "the network is"),
        ("fatal: unable to access 'http://u/': Could not resolve host: u", "the host's name"),
        ("dial tcp: lookup proxy.golang.org: no such host", "the host's name"),
        ("npm ERR! code ECONNREFUSED", "the connection was refused"),
    ],
)
def test_a_line_of_a_builder_has_its_cause(line, cause):
    fault = builder_fetch_fault(["begin", line, "it failed (5)"], "http://u/")

    assert (fault.url, fault.cause.startswith(cause)) == ("http://u/", True)


def test_a_url_that_is_none_still_has_a_cause():
    fault = fetch_fault("unable to download 'http://[x/': Couldn't connect to server (7)")

    assert fault.cause == "the connection was refused"


@pytest.mark.parametrize(
    ("attributes", "url"),
    [
        ('("urls","mirror://gnu/a http://b")', "mirror://gnu/a"),
        ('("url","http://a")', "http://a"),
        (r'("__json","{\"urls\":[\"http://a\",\"http://b\"]}")', "http://a"),
        ('("name","x")', ""),
    ],
)
def test_what_a_derivation_fetches_is_in_it(tmp_path, attributes, url):
    drv = tmp_path / "x.drv"
    drv.write_text(f'Derive([("out","/s/x","sha256","ab")],[],[],"x","/bin/sh",[],[{attributes}])')

    assert fetched_url(str(drv)) == url


def test_a_derivation_without_a_hash_fetches_nothing(tmp_path):
    drv = tmp_path / "x.drv"
    drv.write_text('Derive([("out","/s/x","",""),("dev","/s/y","","")],[],[],"","",[],[])')

    assert fetched_url(str(drv)) is None
    assert fetched_url(str(tmp_path / "none")) is None
    assert not os.path.exists(tmp_path / "none")
