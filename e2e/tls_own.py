"""TLS that is not the mesh's, with peers of other makes: OpenSSL by Python's ssl, and gRPC's own.

A port ends TLS of its own for both, and telemetry leaves to a gRPC receiver of `https` that asks for a certificate.
"""

import os
import socket
import ssl
import sys
import tempfile

import grpc

from client import Answer, exchange, request
from origins import Origin
from own_telemetry import Receiver
from processes import Failed, check, wait_for
from sidecar import Outrigger
from tls_interop import METHOD, Authority, peers, serve_grpc

SERVER = "spiffe://partner/site"
CLIENT = "spiffe://partner/client"
NAME = "shop.example"
HTTPS = 7443
BYTES = 7444


def files(identity):
    return (os.path.join(identity, name) for name in ("cert-chain.pem", "key.pem", "root-cert.pem"))


def settings(identity, mode):
    chain, key, roots = files(identity)
    return f"{{ mode: {mode}, serverCertificate: {chain}, privateKey: {key}, caCertificates: {roots} }}"


def by_openssl(address, roots, shows=None, **limits):
    """The answer over TLS, and the version that was agreed on; `None` if the client is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(roots)
    context.set_alpn_protocols(["http/1.1"])
    for limit, value in limits.items():
        setattr(context, limit, value)
    if shows:
        chain, key, _ = files(shows)
        context.load_cert_chain(chain, key)
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=NAME) as secure:
                secure.sendall(request("/", [("connection", "close"), ("x-forwarded-client-cert", "By=forged")]))
                got = b""
                while part := secure.recv(65536):
                    got += part
                return Answer(got, False), secure.version()
        except (ssl.SSLError, ConnectionError):
            return None


def told(origin):
    return dict(origin.seen[-1][1]).get("x-forwarded-client-cert")


def port(folder, identities, origin, echo):
    roots = os.path.join(identities["client"], "root-cert.pem")
    for mode in ("MUTUAL", "OPTIONAL_MUTUAL"):
        tls = settings(identities["server"], mode)
        ingress = [(HTTPS, "HTTPS", origin.address, tls), (BYTES, "TLS", echo, tls)]
        with Outrigger(f"outrigger-{mode.lower()}", folder, peers("DISABLE"), ingress=ingress) as server:
            address = server.listens[HTTPS]
            for limits in ({}, {"maximum_version": ssl.TLSVersion.TLSv1_2}):
                answer = by_openssl(address, roots, identities["client"], **limits)
                check(answer and answer[0].status == 200, f"{mode} {limits}: {answer} {server.tail()}")
                check(answer[1] == ("TLSv1.2" if limits else "TLSv1.3"), answer[1])
                check(told(origin).endswith(f"URI={CLIENT}") and "forged" not in told(origin), told(origin))
            before = len(origin.seen)
            answer = by_openssl(address, roots)
            if mode == "MUTUAL":
                check(answer is None and len(origin.seen) == before, f"without a certificate: {answer}")
            else:
                check(answer[0].status == 200 and told(origin) is None, f"{answer} {told(origin)}")
            before = len(origin.seen)
            check(by_openssl(address, roots, identities["stranger"]) is None, "another root's client is taken")
            check(exchange(address, request("/")).status == 0, "plain text is taken")
            check(len(origin.seen) == before, "a stranger got through")
            # gRPC insists on its protocol's name, also where bytes are all that the proxy sees.
            chain, key, _ = files(identities["client"])
            read = [open(path, "rb").read() for path in (roots, key, chain)]
            options = [("grpc.ssl_target_name_override", NAME)]
            credentials = grpc.ssl_channel_credentials(*read)
            with grpc.secure_channel(server.listens[BYTES], credentials, options=options) as channel:
                answer = channel.unary_unary(METHOD)(b"ping" * 1000, timeout=10)
                check(answer == b"ping" * 1000, f"{mode}: {answer}")


def telemetry(folder, identities, origin):
    chain, key, roots = (open(path, "rb").read() for path in files(identities["server"]))
    receiver = Receiver(grpc.ssl_server_credentials([(key, chain)], roots, require_client_auth=True))
    chain, key, roots = files(identities["client"])
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://localhost:{receiver.address.rsplit(':', 1)[1]}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": roots,
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": chain,
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": key,
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }
    tls = settings(identities["server"], "OPTIONAL_MUTUAL")
    ingress = [(HTTPS, "HTTPS", origin.address, tls)]
    try:
        with Outrigger("outrigger-otlp", folder, peers("DISABLE"), mesh="", env=env, ingress=ingress) as proxy:
            check(by_openssl(proxy.listens[HTTPS], roots)[0].status == 200, proxy.tail())
            wait_for("a span over TLS", lambda: receiver.spans())
    finally:
        receiver.server.stop(None)


def main():
    with tempfile.TemporaryDirectory() as folder:
        authority, other = (Authority(os.path.join(folder, name)) for name in ("roots", "others"))
        identities = {
            "server": authority.identity("server", SERVER, names=[NAME, "localhost"]),
            "client": authority.identity("client", CLIENT),
            "stranger": other.identity("stranger", CLIENT),
        }
        origin = Origin()
        server, echo = serve_grpc()
        try:
            port(folder, identities, origin, echo)
        finally:
            server.stop(None)
        telemetry(folder, identities, origin)
    print("TLS of a port's own with OpenSSL and gRPC, and telemetry to a receiver of https")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        print(f"FAILED: {failed}")
        sys.exit(1)
