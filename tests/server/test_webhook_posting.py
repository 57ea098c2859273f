"""What a receiver of webhooks may be, and what it can't do: all bounds of an attempt."""

import gzip
import itertools
import socket
import threading

import pytest
from receiver import Receiver, answer, make_tls

from webhooks import posting
from webhooks.addresses import PrivateAddresses
from webhooks.posting import NotDelivered, Stopped

LOCAL = PrivateAddresses.parse(["127.0.0.0/8"])
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def receiver():
    """A receiver that answers 204 to all."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def names(monkeypatch):
    """What names are resolved to, one list of addresses for each lookup, the last one for ever."""
    lookups, real = {}, socket.getaddrinfo

    def getaddrinfo(host, *arguments, **more):
        if host not in lookups:
            return real(host, *arguments, **more)
        found = lookups[host].pop(0) if len(lookups[host]) > 1 else lookups[host][0]
        return [place for address in found for place in real(address, *arguments, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return lookups


@pytest.fixture
def soon(monkeypatch):
    """Have an attempt end after 0.3 s."""
    monkeypatch.setattr(posting, "SECONDS", 0.3)


def post(url, body=b"{}", private=LOCAL, stopping=None):
    """Post a body."""
    return posting.post(url, body, {"webhook-id": "1"}, private, stopping or threading.Event())


def refusal(url, **more):
    """Post, which must fail, and return why it did."""
    with pytest.raises(NotDelivered) as error:
        post(url, **more)
    return str(error.value)


# --- Addresses ---


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        *(("1.1.1.1", True), ("2606:4700::1111", True), ("64:ff9b::101:101", True)),
        *(("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("0.0.0.0", False)),
        *(("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False)),
        *(("224.0.0.1", False), ("240.0.0.1", False), ("255.255.255.255", False)),
        *(("198.18.0.1", False), ("192.0.2.1", False), ("::", False), ("::1", False)),
        *(("fe80::1%2", False), ("fc00::1", False), ("fec0::1", False), ("ff0e::1", False)),
        *(("2001:db8::1", False), ("4000::1", False), ("100::1", False)),
        *(("::ffff:127.0.0.1", False), ("::ffff:1.1.1.1", True), ("::127.0.0.1", False)),
        *(("64:ff9b::7f00:1", False), ("64:ff9b:1::101:101", False)),
        *(("2002:7f00:1::", False), ("2002:101:101::", False), ("2001:0:101:101::1", False)),
    ],
)
def test_public_addresses_are_allowed_alone(address, is_allowed):
    assert PrivateAddresses().allow("example.org", address) == is_allowed


def test_private_addresses_are_allowed_as_the_setting_names_them():
    private = PrivateAddresses.parse(["10.0.0.0/8", "192.168.1.7", "fd00::/8", "Hooks.local."])

    allowed = ("10.1.2.3", "192.168.1.7", "fd12::1", "::ffff:10.1.2.3", "64:ff9b::a01:203")
    assert all(private.allow("example.org", address) for address in allowed)
    others = ("11.1.2.3", "192.168.1.8", "127.0.0.1", "fe80::1")
    assert [one for one in others if private.allow("example.org", one)] == ["11.1.2.3"]
    assert private.allow("hooks.LOCAL", "127.0.0.1")
    assert not private.allow("hooks.local.evil.org", "127.0.0.1")


@pytest.mark.parametrize("word", ["10.0.0.1/8", "10.0.0", "300.1.1.1", "::1/129", "a b/", "0x7f"])
def test_what_is_neither_an_address_nor_a_name_is_refused(word):
    with pytest.raises(ValueError, match=word.split("/")[0]):
        PrivateAddresses.parse([word])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost"])
def test_this_machine_is_not_reached(receiver, host):
    said = refusal(f"http://{host}:{receiver.port}/", private=PrivateAddresses())

    assert "is no public address, and WEBHOOK_PRIVATE doesn't name it" in said
    assert receiver.messages == []


def test_a_name_that_is_resolved_anew_leads_nowhere_else(receiver, names):
    trap = receiver
    names["hooks.example.org"] = [["127.0.0.2"], ["127.0.0.1"]]
    private = PrivateAddresses.parse(["127.0.0.2"])

    with Receiver("127.0.0.2", trap.port) as checked:
        post(f"http://hooks.example.org:{trap.port}/", private=private)
        said = refusal(f"http://hooks.example.org:{trap.port}/", private=private)

    assert said.startswith("127.0.0.1 is no public address")
    assert (len(checked.messages), trap.messages) == (1, [])
    assert checked.messages[0].headers["host"] == f"hooks.example.org:{trap.port}"


def test_of_several_addresses_those_that_are_allowed_are_tried(receiver, names):
    names["hooks.example.org"] = [["10.0.0.1", "127.0.0.9", "127.0.0.1"]]

    assert post(f"http://hooks.example.org:{receiver.port}/").status == 204
    assert "Connection refused" in refusal(
        f"http://hooks.example.org:{receiver.port}/", private=PrivateAddresses.parse(["127.0.0.9"])
    )


def test_a_name_that_can_not_be_resolved_is_told(names):
    assert refusal(f"http://{'a' * 64}.org/").startswith(f"{'a' * 64}.org: ")


# --- What a receiver answers ---


def test_an_answer_is_kept_as_plain_text_its_beginning_alone(receiver):
    receiver.says(answer(500, f"\x1b[31mno\x1b[0m{'x' * 2000}", "Retry-After: 7"))

    found = post(receiver.url)

    assert (found.status, found.retry_after) == (500, "7")
    assert found.text == f"no{'x' * (1024 - 11)}"


def test_a_redirect_is_not_followed(receiver):
    with Receiver() as elsewhere:
        receiver.says(answer(307, "", f"Location: {elsewhere.url}/"))

        assert post(receiver.url).status == 307

    assert elsewhere.messages == []


def test_a_compressed_answer_is_not_unpacked(receiver):
    bomb = gzip.compress(bytes(30 * 2**20))
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    receiver.answer = lambda _message: [HEAD, head, bomb]

    assert len(bomb) < posting.ANSWER_BYTES
    assert post(receiver.url).text == f"({len(bomb)} bytes of gzip)"
    assert receiver.messages[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("head", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_an_endless_answer_is_given_up(receiver, head):
    piece = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    receiver.answer = lambda _message: itertools.chain([HEAD + head], itertools.repeat(piece))

    assert refusal(receiver.url) == "the answer is longer than 64 KiB"


@pytest.mark.parametrize(
    "line", [b"X: %s\r\n" % (b"x" * 300_000), b"X: y\r\n" * 50_000], ids=["one", "many"]
)
def test_headers_without_an_end_are_given_up(receiver, line):
    receiver.answer = lambda _message: itertools.chain([HEAD], itertools.repeat(line))

    assert refusal(receiver.url) != ""


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b""),
        (HEAD, b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Content-Length: 60000\r\n\r\n", b"x"),
    ],
    ids=["nothing", "headers", "interim", "body"],
)
def test_an_answer_that_drips_is_given_up(receiver, soon, head, piece):
    given_up = threading.Event()

    def drip(_message):
        yield head
        while not given_up.wait(0.01):
            yield piece

    receiver.answer = drip

    assert refusal(receiver.url) == "no whole answer within 0.3 s"
    given_up.set()


def test_a_receiver_that_reads_nothing_is_given_up(soon):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        assert refusal(url, body=bytes(2**25)) != ""


@pytest.mark.parametrize(
    "said", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_an_answer_that_is_broken_is_told(receiver, said):
    receiver.says(said)

    assert refusal(receiver.url) != ""


def test_a_stop_of_the_service_ends_an_attempt(receiver):
    stopping, has_gone = threading.Event(), threading.Event()

    def answer(_message):
        stopping.set()
        yield HEAD
        has_gone.wait(30)

    receiver.answer = answer

    with pytest.raises(Stopped):
        post(receiver.url, stopping=stopping)
    has_gone.set()


# --- How it is sent ---


def test_a_large_message_arrives_whole(receiver):
    body = bytes(range(256)) * 1000

    post(f"{receiver.url}/a?b=c", body)

    assert (receiver.messages[0].path, receiver.messages[0].body) == ("/a?b=c", body)


def test_proxies_of_the_environment_are_not_used(receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.9:1")

    assert post(receiver.url).status == 204


def test_a_certificate_counts_for_its_name_alone(names, monkeypatch, tmp_path):
    certificate, tls = make_tls(tmp_path, "hooks.example.org")
    names["hooks.example.org"] = names["other.example.org"] = [["127.0.0.1"]]
    with Receiver(tls=tls) as receiver:
        url = f"https://hooks.example.org:{receiver.port}/"
        assert "self-signed" in refusal(url)

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert post(url).status == 204
        assert "mismatch" in refusal(url.replace("hooks", "other"))
        assert len(receiver.messages) == 1
