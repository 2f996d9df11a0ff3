"""A small server with the API of a language model, which does as a test says."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), None))
        self.server.on_models(self)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        self.server.on_chat(self)

    def answer(self, status: int, body: str, kind: str = "application/json", **more: str) -> None:
        """A whole response."""
        data = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        """An error as OpenAI's API has it."""
        self.answer(status, json.dumps({"error": {"message": message, "type": "x", "code": None}}))

    def begin(self) -> None:
        """The head of a stream."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, data: Any) -> None:
        """One event of a stream."""
        text = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")

    def piece(self, text: str | None, finish: str | None = None) -> None:
        """One piece of a reply."""
        delta = {} if text is None else {"content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        self.event({**chunk, "choices": [choice]})

    def end(self, finish: str | None = "stop") -> None:
        """The end of a stream."""
        self.piece(None, finish)
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def stream(self, *pieces: str, finish: str | None = "stop") -> None:
        """A whole reply in pieces."""
        self.begin()
        for one in pieces:
            self.piece(one)
        self.end(finish)


class Server(ThreadingHTTPServer):
    """Replies "Red [1]." unless it is told otherwise.

    Attributes:
        seen: (path, headers, body) of each request.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.on_chat: Callable[[Handler], None] = lambda one: one.stream("Red ", "[1].")
        models = json.dumps({"object": "list", "data": [{"id": "eyes"}, {"id": "ears"}]})
        self.on_models: Callable[[Handler], None] = lambda one: one.answer(200, models)

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that have gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def told(self) -> list[dict[str, Any]]:
        """The bodies of what models were asked."""
        return [body for _, _, body in self.seen if body is not None]

    @property
    def texts(self) -> str:
        """All texts that the model was told last, but the instructions."""
        content = self.told[-1]["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "\n".join(part["text"] for part in content if part["type"] == "text")

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The sources in it."""
        pattern = r'<untrusted-source number="\d+">\n(.*?)\n</untrusted-source>'
        return [json.loads(one) for one in re.findall(pattern, self.texts, re.DOTALL)]

    @property
    def pictures(self) -> list[Image.Image]:
        """The pictures that the model was shown last."""
        content = self.told[-1]["messages"][-1]["content"]
        urls = [one["image_url"]["url"] for one in content if one["type"] == "image_url"]
        data = [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in urls]
        return [Image.open(io.BytesIO(one)) for one in data]


@contextmanager
def running() -> Iterator[Server]:
    """A server that runs in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
