"""MLflow servers that need credentials."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from glowctl.tracking.store import check_store
from glowctl.tracking.uris import TrackingError

TOKEN = {"MLFLOW_TRACKING_TOKEN": "hidden"}
USER = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hidden"}


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]) -> Iterator[str]:
    """Run an HTTP server on this machine that answers requests; yield its address."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = answer(self)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variables", "header"), [(TOKEN, "Bearer hidden"), (USER, "Basic bWU6aGlkZGVu")])
def test_a_server_that_needs_credentials_gets_them(monkeypatch, variables, header):
    with server(lambda request: (200 if request.headers["Authorization"] == header else 401, b"{}")) as uri:
        with pytest.raises(TrackingError, match="401") as raised:
            check_store(uri)
        assert next(iter(variables)) in raised.value.remedy
        set_all(monkeypatch, variables)
        check_store(uri)


def test_an_error_does_not_quote_a_token(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden\n")  # which `requests` refuses to send
    with server(lambda request: (401, b"{}")) as uri, pytest.raises(TrackingError) as raised:
        check_store(uri)
    assert raised.value.code == "store-refuses"
    assert "hidden" not in str(raised.value)


def test_a_certificate_that_is_not_public_is_checked_as_mlflow_does(monkeypatch):
    def unknown(*_, **__):
        raise requests.exceptions.SSLError("self-signed certificate")

    monkeypatch.setattr(requests, "get", unknown)
    with server(lambda request: (200, b"{}")) as uri:
        check_store(uri)
        set_all(monkeypatch, {"MLFLOW_TRACKING_INSECURE_TLS": "true", "MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem"})
        with pytest.raises(TrackingError, match="MLFLOW_TRACKING_INSECURE_TLS"):  # MLflow takes only one of the two
            check_store(uri)
