"""A certificate authority and HTTPS servers for tests, on real sockets."""

from __future__ import annotations

import datetime
import http.server
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["authority", "https_server"]

Key = ec.EllipticCurvePrivateKey


def authority(folder: Path, *names: str) -> Path:
    """Make an authority and a certificate of it for `names`; return `ca.pem`, beside `server.pem`."""
    issuer, key = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")]), _key()
    ca = _certificate(issuer, issuer, key).add_extension(x509.BasicConstraints(True, None), critical=True)
    subject, own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), _key()
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    leaf = _certificate(subject, issuer, own).add_extension(alternatives, critical=False)
    encoding = serialization.Encoding.PEM
    private = own.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + leaf.sign(key, hashes.SHA256()).public_bytes(encoding))
    (folder / "ca.pem").write_bytes(ca.sign(key, hashes.SHA256()).public_bytes(encoding))
    return folder / "ca.pem"


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", f"https://{self.path[4:]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"x" * int(self.path[6:]) if self.path.startswith("/size/") else b"a page over TLS"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no fault here."""


@contextmanager
def https_server(folder: Path, host: str = "127.0.0.1") -> Generator[int]:
    """Serve `/size/N`, `/to/HOST/PATH` (a redirect) and other pages; yield the port.

    The certificate is that of `authority(folder, ...)`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with _Server((host, 0), _Pages) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
