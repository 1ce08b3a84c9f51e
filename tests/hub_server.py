"""A hub on this machine that the hub's own clients load from: every repository of a folder, at one commit."""

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()
REPO = r"(?P<repo>[^/]+/[^/]+)"
ABOUT = re.compile(
    rf"/api/(?P<kind>models|datasets)/{REPO}"
    r"(/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(/(?P<inside>.+))?)?"
)
FILE = re.compile(rf"(?P<kind>/datasets|)/{REPO}/resolve/(?P<revision>[^/]+)/(?P<inside>.+)")


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Hub:
    """Serves folder/models/ORG/NAME and folder/datasets/ORG/NAME at `url`, with ways to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests = 0
        self._lock = Lock()
        self._busy_every = self._busy_first = 0
        self._cut, self._cuts, self._late = "", 0, 0.0
        self.spans: list[str] = []  # the parts of files that were asked for
        self._serve(0)

    def _serve(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("OfThisHub", (Handler,), {"hub": self}))
        self.port = int(self._server.server_port)
        self.url = f"http://127.0.0.1:{self.port}"
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def away(self, silent: bool = False) -> Iterator[None]:
        """Connections are refused, or if silent taken and never answered; the port stays ours."""
        self.close()
        with socket.socket() as kept:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind(("127.0.0.1", self.port))
            if silent:
                kept.listen()
            try:
                yield
            finally:
                kept.close()
                self._serve(self.port)

    @contextmanager
    def busy(self, every: int = 0, first: int = 0) -> Iterator[None]:
        """Every so many requests, or to the first ones, counted from here, the answer is 503."""
        self.requests, self._busy_every, self._busy_first = 0, every, first
        try:
            yield
        finally:
            self._busy_every = self._busy_first = 0

    @contextmanager
    def cutting(self, name: str, times: int = 1 << 30) -> Iterator[None]:
        """The connection breaks halfway through each answer with a file of this name, or through the first ones."""
        self._cut, self._cuts = name, times
        try:
            yield
        finally:
            self._cut = ""

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Every answer comes late."""
        self._late = seconds
        try:
            yield
        finally:
            self._late = 0.0

    def wait(self) -> None:
        Event().wait(self._late)  # not time.sleep, which tests replace

    def sent_part(self, path: str, status: int, body: bytes) -> bytes:
        if not self._cut or self._cuts < 1 or status >= 300 or not path.endswith(f"/{self._cut}"):
            return body
        self._cuts -= 1
        return body[: len(body) // 2]

    def answer(self, path: str, sent: bytes, span: str | None) -> Answer:
        with self._lock:
            self.requests += 1
            self.spans += [span] if span else []
            busy = self.requests <= self._busy_first or (self._busy_every and self.requests % self._busy_every == 0)
        if busy:
            return _json({"error": "busy"}, 503)
        path = unquote(urlsplit(path).path)
        asked = ABOUT.fullmatch(path) or FILE.fullmatch(path)
        if asked is None:
            return _fault("RepoNotFound" if path.startswith("/api/") else "EntryNotFound")
        root = self.folder / (asked["kind"].strip("/") or "models") / asked["repo"]
        if not root.is_dir():
            return _fault("RepoNotFound")
        if asked["revision"] not in (None, "main", COMMIT):
            return _fault("RevisionNotFound")
        if asked.re is FILE:
            return _file(root / asked["inside"], span)
        return _about(root, asked["repo"], asked["what"], asked["inside"] or "", sent)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: no connection outlives its answer, so that a hub that is away is away at once."""

    hub: Hub

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.wait()
        status, body, headers = self.hub.answer(self.path, sent, self.headers.get("Range"))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.hub.sent_part(self.path, status, body))

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None: ...


def _json(content: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})


def _fault(code: str) -> Answer:
    return _json({"error": code}, 404, **{"X-Error-Code": code, "X-Error-Message": code})


def _file(path: Path, span: str | None) -> Answer:
    if not path.is_file():
        return _fault("EntryNotFound")
    body = path.read_bytes()
    headers = {"ETag": f'"{_hash(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", span or "")
    if asked is None:
        return Answer(200, body, headers)
    first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
    return Answer(206, body[first : last + 1], headers)


def _about(root: Path, repo: str, what: str | None, inside: str, sent: bytes) -> Answer:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    if what == "paths-info":
        wanted = json.loads(sent)["paths"] if sent.startswith(b"{") else parse_qs(sent.decode())["paths"]
        return _json([_entry(root, root / name) for name in wanted if (root / name).exists()])
    if what == "tree":
        below = root / inside
        return (
            _json([_entry(root, path) for path in sorted(below.rglob("*"))])
            if below.is_dir()
            else _fault("EntryNotFound")
        )
    names = [{"rfilename": str(path.relative_to(root))} for path in paths]
    facts = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
    return _json({"_id": "0", "id": repo, "sha": COMMIT, "siblings": names, **facts})


def _entry(root: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(root))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
    return {"type": "file", "path": name, "oid": _hash(path), "size": path.stat().st_size}


def _hash(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
