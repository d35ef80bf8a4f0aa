"""Where spans go: to the collector that is set, and a collector that is gone holds nobody up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.support.gateways import copy_pack
from tests.support.processes import run_sandgate


@contextmanager
def collecting() -> Generator[tuple[str, list[bytes]]]:
    """Run a collector that keeps what it is sent; yields where and what."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
        finally:
            server.shutdown()
            thread.join()


def test_a_calls_spans_reach_the_collector_before_the_process_ends(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    args = ("call", folder, "echo", "--args", '{"text": "s3cret"}', "--state", str(tmp_path / "state"))
    with collecting() as (url, bodies):
        ran = run_sandgate(
            *args, env={"SANDGATE_TRACING_ENDPOINT": url, "SANDGATE_TRACING_SERVICE": "front-door"}
        )
    assert ran.returncode == 0, ran.stderr
    sent = b"".join(bodies)
    assert (b"tools/call echo" in sent, b"front-door" in sent, b"s3cret" in sent) == (True, True, False)


def test_a_collector_that_is_gone_changes_neither_answer_nor_exit_code(tmp_path: Path) -> None:
    folder = str(copy_pack("echo", tmp_path).folder)
    args = ("call", folder, "echo", "--args", '{"text": "hi"}', "--state", str(tmp_path / "state"))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        ran = run_sandgate(*args, env={"SANDGATE_TRACING_ENDPOINT": url})
    assert (ran.returncode, "hi" in ran.stdout) == (0, True), ran.stderr
