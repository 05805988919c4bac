"""A relay between client and server that cuts the connection in the middle of an answer."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Relay:
    """Passes bytes on; answers to requests that hold `mark` are cut so many bytes after their headers, `cuts` times."""

    def __init__(self, url: str, mark: bytes, after: int, cuts: int) -> None:
        self.target, self.mark, self.after, self.cuts = (urlsplit(url).hostname, urlsplit(url).port), mark, after, cuts
        self.requests: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.server.accept()
                thread = threading.Thread(target=self._relay, args=(client,))
                self.threads.append(thread)
                thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            asked = client.recv(65_536)
            self.requests.append(asked.partition(b"\r\n\r\n")[0])
            cut = self.mark in asked and self.cuts > 0
            self.cuts -= cut
            # One request a connection, so that each is seen by itself.
            server.sendall(re.sub(rb"(?i)connection: keep-alive", b"connection: close", asked, count=1))
            back = threading.Thread(target=self._back, args=(client, server, cut))
            back.start()
            with suppress(OSError):
                while data := client.recv(65_536):
                    server.sendall(data)
            back.join()

    def _back(self, client: socket.socket, server: socket.socket, cut: bool) -> None:
        head, end = b"", -1
        with suppress(OSError):
            while end < 0 and (data := server.recv(65_536)):
                head += data
                end = head.find(b"\r\n\r\n")
            left = end + 4 + self.after if cut else 1 << 60
            data = head
            while data:
                client.sendall(data[:left])
                left -= len(data)
                data = server.recv(65_536) if left > 0 else b""
        for side in (client, server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop; every thread has ended afterwards."""
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for thread in self.threads:
            thread.join(20)


@contextmanager
def cutting(url: str, mark: bytes, *, after: int, cuts: int = 1) -> Iterator[Relay]:
    """A relay before `url`."""
    relay = Relay(url, mark, after, cuts)
    try:
        yield relay
    finally:
        relay.close()
