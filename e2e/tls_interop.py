"""Mutual TLS between Outrigger and a real Envoy in both directions, with Istio's names: HTTP/1.1, HTTP/2 and gRPC.

What either proxy tells the workload of its client (`x-forwarded-client-cert`) is compared, for the same certificates.
"""

import concurrent.futures
import datetime
import os
import sys
import tempfile

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import envoy
from client import exchange, request
from origins import Origin
from processes import Failed, check, skip, wait_for
from sidecar import PORT, SUFFIX, Outrigger, service

CLIENT = "spiffe://cluster.local/ns/shop/sa/client"
SERVER = "spiffe://cluster.local/ns/default/sa/web"
EVIL = "spiffe://evil.local/ns/shop/sa/client"
INBOUND = 7070
GRPC = 7071
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
METHOD = "/test.Echo/Say"


class Authority:
    """The root of a mesh; it issues folders with an identity, as Istio's agent writes them."""

    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mesh")])
        extensions = [(x509.BasicConstraints(ca=True, path_length=None), True)]
        self.certificate = self.sign(self.name, self.key.public_key(), extensions)

    def sign(self, subject, key, extensions):
        now = datetime.datetime.now(datetime.timezone.utc)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(hours=1))
        made = made.not_valid_after(now + datetime.timedelta(days=1))
        for extension, critical in extensions:
            made = made.add_extension(extension, critical)
        return made.sign(self.key, hashes.SHA256())

    def identity(self, name, uri, subject=(), names=()):
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        all_names = [x509.UniformResourceIdentifier(uri), *(x509.DNSName(one) for one in names)]
        extensions = [
            (x509.SubjectAlternativeName(all_names), not subject),
            (usage, True),
            (x509.ExtendedKeyUsage(purposes), False),
        ]
        name_of = x509.Name([x509.NameAttribute(kind, value) for kind, value in subject])
        certificate = self.sign(name_of, key.public_key(), extensions)
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files = {
            "cert-chain.pem": certificate.public_bytes(pem),
            "key.pem": private,
            "root-cert.pem": self.certificate.public_bytes(pem),
        }
        for file, content in files.items():
            with open(os.path.join(folder, file), "wb") as out:
                out.write(content)
        return folder


def common(identity, accepted, protocols):
    """What both sides of Envoy's TLS have, as Istio writes it."""
    file = lambda name: {"filename": os.path.join(identity, name)}
    names = [{"san_type": "URI", "matcher": {"prefix": accepted}}]
    return {
        "tls_certificates": [{"certificate_chain": file("cert-chain.pem"), "private_key": file("key.pem")}],
        "validation_context": {"trusted_ca": file("root-cert.pem"), "match_typed_subject_alt_names": names},
        "alpn_protocols": protocols,
    }


def server_listener(name, identity, destination):
    """An inbound listener of Istio: it takes mutual TLS by the names that sidecars offer, and tells the workload who."""
    context = {
        "@type": TLS + "DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common(identity, "spiffe://cluster.local/", ["h2", "http/1.1"]),
    }
    manager = {
        "@type": envoy.HCM,
        "stat_prefix": name,
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": True, "uri": True, "dns": True},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": envoy.ROUTER}}],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": envoy.forward(destination)}]}
            ]
        },
    }
    inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "listener_filters": [
            {"name": "tls_inspector", "typed_config": {"@type": "type.googleapis.com/" + inspector}}
        ],
        "filter_chains": [
            {
                "filter_chain_match": {
                    "transport_protocol": "tls",
                    "application_protocols": ["istio-http/1.0", "istio-http/1.1", "istio-h2"],
                },
                "transport_socket": {"name": "tls", "typed_config": context},
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
            }
        ],
    }


def client_socket(identity, sni, protocols):
    context = {
        "@type": TLS + "UpstreamTlsContext",
        "sni": sni,
        "common_tls_context": common(identity, SERVER, protocols),
    }
    return {"transport_socket": {"name": "tls", "typed_config": context}}


class Echo(grpc.GenericRpcHandler):
    """A gRPC server that sends a message back, and the certificate header in its trailers."""

    def service(self, details):
        seen = dict(details.invocation_metadata).get("x-forwarded-client-cert", "none")

        def say(message, context):
            context.set_trailing_metadata((("seen", seen),))
            return message

        return grpc.unary_unary_rpc_method_handler(say)


def serve_grpc():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4), handlers=(Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def say(address, host):
    """The header that the server saw."""
    with grpc.insecure_channel(address, options=[("grpc.default_authority", host)]) as channel:
        message, call = channel.unary_unary(METHOD).with_call(b"ping" * 1000, timeout=10)
        check(message == b"ping" * 1000, f"{address}: {message}")
        return dict(call.trailing_metadata()).get("seen")


def seen(origin):
    return dict(origin.seen[-1][1]).get("x-forwarded-client-cert")


def ask(address, headers=(), host="web"):
    return exchange(address, request("/", headers, host=host)).status


def mutual(name, address, protocol, number):
    """A service whose endpoint has a sidecar."""
    text = service(name, [(address, "v1")], protocol, number)
    text = text.replace("version: v1", "version: v1, security.istio.io/tlsMode: istio")
    return text.replace("  resolution:", "  location: MESH_INTERNAL\n  resolution:")


def peers(mode):
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{ name: default }}
spec: {{ mtls: {{ mode: {mode} }} }}
---"""


def from_outrigger(folder, identities, origin, echo):
    """Outrigger beside the client, Envoy beside the server. Returns what the workload was told, over HTTP and gRPC."""
    clusters = [envoy.cluster("web", [origin.address]), envoy.cluster("echo", [echo], **envoy.http2())]
    listeners = [server_listener("http", identities["server"], "web"), server_listener("grpc", identities["server"], "echo")]
    with envoy.Envoy("envoy-server", folder, [], clusters, ["none"], more=listeners) as server:
        documents = mutual("web", server.listens["http"], "HTTP", PORT)
        documents += mutual("web2", server.listens["http"], "HTTP2", PORT)
        documents += mutual("echo", server.listens["grpc"], "GRPC", GRPC)
        arguments = dict(documents=documents, more=[(GRPC, "GRPC")])
        with Outrigger("outrigger-client", folder, identity=identities["client"], **arguments) as client:
            check(ask(client.address, [("x-forwarded-client-cert", "By=forged")]) == 200, client.tail())
            told = seen(origin)
            check(ask(client.address, host="web2") == 200, f"HTTP/2: {client.tail()}")
            check(seen(origin) == told, f"HTTP/2: {seen(origin)}, not {told}")
            told_grpc = say(client.listens[GRPC], f"echo.{SUFFIX}")
        before = len(origin.seen)
        for name in ("evil", None):
            identity = identities[name] if name else None
            with Outrigger(f"outrigger-{name}", folder, identity=identity, **arguments) as client:
                check(ask(client.address) == 503, f"{name} is taken by Envoy")
        check(len(origin.seen) == before, "a stranger got through")
    # Envoy beside the server of another trust domain is refused by Outrigger.
    listeners = [server_listener("http", identities["evil"], "web")]
    with envoy.Envoy("envoy-evil", folder, [], clusters, ["none"], more=listeners) as server:
        documents = mutual("web", server.listens["http"], "HTTP", PORT)
        with Outrigger("outrigger-wary", folder, documents, identity=identities["client"]) as client:
            check(ask(client.address) == 503, "a server of another trust domain is taken")
            why = lambda: os.path.exists(client.log) and "trust_domain" in open(client.log, encoding="utf-8").read()
            wait_for("the log to say why", why)
    return told, told_grpc


def from_envoy(folder, identities, origin, echo):
    """Envoy beside the client, Outrigger beside the server."""
    ingress = [(INBOUND, "HTTP", origin.address), (GRPC, "GRPC", echo)]
    told = None
    for mode in ("STRICT", "PERMISSIVE"):
        name = f"outrigger-{mode.lower()}"
        with Outrigger(name, folder, peers(mode), ingress=ingress, identity=identities["server"]) as server:
            http, rpc = server.listens[INBOUND], server.listens[GRPC]
            h1, h2 = ["istio-http/1.1", "istio", "http/1.1"], ["istio-h2", "istio", "h2"]

            def clusters(identity):
                sni = f"outbound_.{PORT}_._.web.{SUFFIX}"
                # Handshakes included.
                patient = {"connect_timeout": "10s"}
                return [
                    envoy.cluster("h1", [http], **client_socket(identity, sni, h1), **patient),
                    envoy.cluster("h2", [http], **client_socket(identity, sni, h2), **envoy.http2(), **patient),
                    envoy.cluster("grpc", [rpc], **client_socket(identity, sni, h2), **envoy.http2(), **patient),
                ]

            hosts = [
                {"name": name, "domains": [name], "routes": [{"match": {"prefix": "/"}, "route": envoy.forward(name)}]}
                for name in ("h1", "h2", "grpc")
            ]
            more = dict(virtual_hosts=hosts)
            with envoy.Envoy(f"envoy-{mode}", folder, [], clusters(identities["client"]), **more) as client:
                check(ask(client.address, host="h1") == 200, f"{mode} h1: {server.tail()}")
                told = seen(origin)
                check(ask(client.address, host="h2") == 200, f"{mode} h2: {server.tail()}")
                check(seen(origin) == told, f"{mode}: {seen(origin)}, not {told}")
                told_grpc = say(client.address, "grpc")
            before = len(origin.seen)
            with envoy.Envoy(f"envoy-evil-{mode}", folder, [], clusters(identities["evil"]), **more) as client:
                check(ask(client.address, host="h1") == 503, f"{mode}: a client of another trust domain is taken")
                check(ask(client.address, host="h2") == 503, f"{mode}: a client of another trust domain is taken")
            check(len(origin.seen) == before, f"{mode}: a stranger got through")
            plain = ask(http, [("x-forwarded-client-cert", "By=forged")])
            if mode == "STRICT":
                check(plain == 0 and len(origin.seen) == before, f"plain text under STRICT: {plain}")
            else:
                check(plain == 200 and seen(origin) is None, f"plain text under PERMISSIVE: {plain}, {seen(origin)}")
    return told, told_grpc


def main():
    if envoy.binary() is None:
        skip("TLS with a real Envoy, which is not installed")
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(folder)
        subject = [(NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "a,b"), (NameOID.COMMON_NAME, "client")]
        identities = {
            "client": authority.identity("client", CLIENT, subject, ["client.example", "second.example"]),
            "server": authority.identity("server", SERVER),
            "evil": authority.identity("evil", EVIL),
        }
        origin = Origin()
        server, echo = serve_grpc()
        try:
            by_envoy = from_outrigger(folder, identities, origin, echo)
            by_outrigger = from_envoy(folder, identities, origin, echo)
        finally:
            server.stop(None)
        check(by_envoy == by_outrigger, f"x-forwarded-client-cert:\n{by_envoy}\nof Envoy\n{by_outrigger}\nof Outrigger")
    print(f"mutual TLS in both directions, HTTP/1.1, HTTP/2 and gRPC; both say {by_envoy[0]}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        print(f"FAILED: {failed}")
        sys.exit(1)
