# hub.py - a local server for huggingface_hub: models in a folder, and a log of requests.
# SPDX-License-Identifier: BSD-3-Clause
"""Run as a program, it loads models from such a hub, by the calls in its arguments."""

import hashlib
import http.server
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

COMMIT = "0123456789" * 4


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer for `/owner/name/resolve/revision/file`."""

    root = Path()
    log: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.answer(True)

    def do_HEAD(self) -> None:
        self.answer(False)

    def answer(self, has_body: bool) -> None:
        repository, found, rest = self.path.strip("/").partition("/resolve/")
        if not found:  # requests of the library about itself
            self.send_error(404)
            return
        revision, _, file = rest.partition("/")
        self.log.append(f"{self.command} {file}")
        assert revision in ("main", COMMIT)
        path = self.root / repository / file
        content = path.read_bytes() if path.is_file() else b""
        self.send_response(200 if content else 404)
        if not content:
            is_there = (self.root / repository).is_dir()
            self.send_header("X-Error-Code", "EntryNotFound" if is_there else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


def describe(call: dict[str, Any]) -> dict[str, Any]:
    """Load a model; return the result or the error, and the requests."""
    import t5bucket as tb

    Handler.log.clear()
    try:
        bias = tb.RelativeAttentionBias.from_pretrained(**call)
        result = f"{bias.buckets!r}, first weight {bias.weight[0, 0]:g}"
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return {"result": result, "requests": [*Handler.log]}


def main(root: str, calls: str) -> None:
    Handler.root = Path(root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    print(json.dumps([describe(call) for call in json.loads(calls)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
