"""A web server on this machine that resumes downloads, and drops connections when told to."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Server(ThreadingHTTPServer):
    """``files``: content by path. ``cuts``: for each path, after how many bytes the next answers end.

    ``moved``: addresses that a path refers to. ``token``: what a bearer must have.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.requests: list[tuple[str, str]] = []  # path, Range header
        self.authorizations: list[str] = []
        self.moved: dict[str, str] = {}
        self.token = ""
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, span = self.path.lstrip("/"), self.headers.get("Range", "")
        self.server.requests.append((path, span))
        self.server.authorizations.append(self.headers.get("Authorization", ""))
        if self.server.token and self.server.authorizations[-1] != f"Bearer {self.server.token}":
            self.send_error(401)
            return
        if path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[path])
            self.end_headers()
            return
        if path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[path]
        start = int(span.removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = self.server.cuts.get(path)
        self.wfile.write(content[start:][: cuts.pop(0)] if cuts else content[start:])

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs inside the block."""
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
