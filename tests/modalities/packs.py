"""Small wheels and a local server that stand in for a package index."""

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from moatelier.ids import digest_file


def wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def catalogue_file(file: Path, *models: dict[str, object]) -> Path:
    """A catalogue with these entries; what every entry needs is filled in."""
    usual = {"name": "A model", "licence": "Apache-2.0", "kind": "text", "convert": "hf_text"}
    file.write_text(yaml.safe_dump({"models": [usual | model for model in models]}), encoding="utf-8")
    return file


def folder_in_wheel(source: Path, links: Path, package: str) -> dict[str, object]:
    """Pack a model's folder into a wheel; returns the catalogue entry that takes it from there."""
    files = {file.name: file for file in sorted(source.iterdir())}
    wheel(links, package, "1.0.0", {f"inside/model/{name}": file.read_bytes() for name, file in files.items()})
    return {
        "id": package,
        "files": {name: digest_file(file) for name, file in files.items()},
        "sources": [{"type": "wheel", "package": package, "version": "1.0.0", "inside": "inside/model"}],
    }


class FileServer:
    """Serves one file with ranges.

    Attributes:
        requests: The `Range` header of each request.
        break_after: Bytes after which the next answers break off; one answer each.
        ignore_range: Answer 200 with everything, whatever was asked.
        status: Answer only this.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.url = ""
        self.requests: list[str | None] = []
        self.break_after: list[int] = []
        self.ignore_range = False
        self.status = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.requests.append(asked)
        if self.status:
            request.send_error(self.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not self.ignore_range else 0
        if start >= len(self.data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.data[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)


@contextmanager
def serving(data: bytes) -> Iterator[FileServer]:
    """A server on loopback for the length of a `with`."""
    server = FileServer(data)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/model-1.0-py3-none-any.whl"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
