"""A stand-in for S3 on this machine, and small images to put there."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import numpy as np
import pytest
from PIL import Image

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """A bucket of the stand-in. `uri("cats")` is the name of a folder in it."""

    def __init__(self, client, name: str) -> None:
        self.client, self.name = client, name

    def uri(self, path: str) -> str:
        return f"s3://{self.name}/{path}"

    def put(self, path: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=path, Body=content)

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return sorted(one["Key"] for one in found if not one["Key"].endswith("/"))


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Serve S3 with moto. Processes that this one starts find it by the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint)
        name = f"images-{port}"  # a new name for each server: file systems are opened once per process
        client.create_bucket(Bucket=name)
        yield Bucket(client, name)
    finally:
        server.stop()


@contextmanager
def refusing_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a store that refuses every request, as S3 does without the right credentials; yield a bucket's URI."""

    class Refusal(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            """Not on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}.items():
            monkeypatch.setenv(name, value)
        yield f"s3://refused-{server.server_port}"  # a new name for each server, as in `stand_in`
    finally:
        server.shutdown()
        server.server_close()


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
