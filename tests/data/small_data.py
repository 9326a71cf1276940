"""A web server on this machine whose files can misbehave, and cards of small data sets."""

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class Mirror:
    """Serves `files` (path -> bytes, or a function that answers as it likes); anything else is not found."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Answer] = {}
        self.requests: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requests.append(self.path)
                answer = mirror.files.get(self.path)
                if callable(answer):
                    answer(self)
                elif answer is None:
                    self.send_error(404)
                else:
                    send(self, answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"


def send(
    handler: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str] | None = None, length: int = 0
) -> None:
    """Answer with `content`, saying that it is `length` bytes long if that is given."""
    handler.send_response(200)
    for name, value in ({"Content-Length": str(length or len(content))} | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)
    handler.wfile.flush()


def write_card(pack: Path, name: str, *, files: dict[str, bytes], on_demand: dict[str, Any] | None = None) -> None:
    """Write the card of a data set with `files` (its own name -> content) and `on_demand` (-> content, mirrors)."""
    card = {
        "name": name,
        "title": name.capitalize(),
        "about": "Small.",
        "loader": "gensrc.data.images.mnist",
        "counts": {"train": 3},
        "on_demand_counts": {},
        "licence": "MIT",
        "licence_url": "https://example.org/licence",
        "attribution": "By example.",
        "source": {"client": "npm", "package": "small", "version": "1.0.0", "sha256": "0" * 64},
        "cut": "Whole.",
        "use": "Good for tests.",
        "quirks": "None.",
        "files": [entry(f"{name}/{file}", content) for file, content in files.items()],
        "on_demand": [
            entry(f"{name}/{file}", content) | {"urls": urls} for file, (content, urls) in (on_demand or {}).items()
        ],
    }
    (pack / name).mkdir()
    (pack / name / "card.json").write_text(json.dumps(card), encoding="utf8")


def entry(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
