"""TLS over HTTP and gRPC, and clients that must show a certificate."""

from __future__ import annotations

import ssl

import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
grpc = pytest.importorskip("grpc", reason="gRPC needs the extra [serve]")
trustme = pytest.importorskip("trustme", reason="needs trustme, which signs certificates")

LIVE = "/inference.GRPCInferenceService/ServerLive"
TRUE = b"\x08\x01"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An authority's certificate; certificates and keys of the server and of a client, in one file each."""
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(folder / "authority")
    server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("client@here")
    server.private_key_pem.write_to_path(folder / "key")
    server.cert_chain_pems[0].write_to_path(folder / "certificate")
    client.private_key_and_cert_chain_pem.write_to_path(folder / "client")
    client.private_key_pem.write_to_path(folder / "client-key")
    client.cert_chain_pems[0].write_to_path(folder / "client-certificate")
    return folder


def context(files, client):
    found = ssl.create_default_context(cafile=files / "authority")
    if client:
        found.load_cert_chain(files / "client")
    return found


def live(address, files, client):
    own = ("client-key", "client-certificate") if client else ()
    names = [(files / name).read_bytes() for name in ("authority", *own)]
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(*names)) as channel:
        return channel.unary_unary(LIVE)(b"", timeout=20)


def options(files, **names):
    return [
        word
        for option, name in names.items()
        for word in (f"--{option.replace('_', '-')}", str(files / name))
    ]


@pytest.mark.parametrize("mutual", [False, True])
def test_both_protocols_speak_tls_and_ask_for_a_certificate_where_they_are_told_to(start, files, mutual):
    names = {"ssl_certfile": "certificate", "ssl_keyfile": "key"} | (
        {"ssl_ca_certs": "authority"} if mutual else {}
    )
    with start("demo", *options(files, **names), tls=context(files, mutual)) as server:
        assert server.url.startswith("https:")
        assert httpx.get(f"{server.url}/v2", verify=context(files, mutual)).json()["name"] == "fsfast"
        assert live(server.grpc, files, mutual) == TRUE
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/v2".replace("https", "http"))
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            httpx.get(f"{server.url}/v2")
        if mutual:
            # In TLS 1.3 the client learns that it is refused with the first answer.
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{server.url}/v2", verify=context(files, False))
            with pytest.raises(grpc.RpcError):
                live(server.grpc, files, False)
