"""A stand-in for a W&B server, with ways to be away."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn(ThreadingHTTPServer):
    """As much of a W&B server as an upload needs; keeps the history of runs."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        self.status = status  # of every answer; 0: connections are taken and never answered
        self.over = threading.Event()
        self.history: dict[int, dict[str, Any]] = {}  # the row of each line
        self.asked = 0
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        """Refuse connections from here on."""
        self.over.set()
        self.shutdown()
        self.server_close()

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer, whatever part of it was asked for."""
        project = {"id": "P", "name": "p", "entity": {"id": "E", "name": "e"}}
        lines = len(self.history)
        bucket: dict[str, Any] = {
            "id": "B", "name": given.get("name"), "displayName": "d", "description": "", "config": "{}", "tags": [],
            "project": project, "historyLineCount": lines, "eventsLineCount": 0, "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in list(self.history.values())[-1:]]),
            "eventsTail": "[]", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}',
        }  # fmt: skip
        if "RunResumeStatus" in query:
            return {"model": {**project, "bucket": bucket if lines else None}}
        sequence = {"id": "S", "name": "a", "latestArtifact": {"id": "A", "versionIndex": 0}}
        artifact = {"artifact": {"id": "A", "state": "COMMITTED", "artifactSequence": sequence}}
        files = [{"name": name, "uploadUrl": f"{self.url}/up"} for name in given.get("files") or []]
        return {
            "upsertBucket": {"bucket": bucket, "inserted": not lines},
            "createArtifact": artifact,
            "useArtifact": artifact,
            "createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files},
            "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []},
            "viewer": {"id": "V", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}},
        }

    def keep(self, body: dict[str, Any]) -> None:
        """Keep the lines of a file stream."""
        sent = body.get("files", {}).get("wandb-history.jsonl")
        for line, content in enumerate(sent["content"] if sent else [], start=sent["offset"] if sent else 0):
            self.history[line] = json.loads(content)


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked += 1
        if self.server.status == 0:
            self.server.over.wait()
            return
        answer: dict[str, Any] = {}
        if self.server.status == 200 and self.path.endswith("/graphql"):
            asked = json.loads(body)
            answer = {"data": self.server.graphql(asked["query"], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.keep(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()
        with suppress(BrokenPipeError):  # the client has heard enough
            self.wfile.write(json.dumps(answer).encode())

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def log_message(self, *_: Any) -> None:
        """Nothing."""
