"""Pyodide of its npm package, fetched once into build/; and a folder as a site on this machine."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

RELEASE = "pyodide@314.0.7"
FOLDER = Path(__file__).parents[2] / "build" / "pyodide"


def pyodide_folder() -> Path | None:
    """Of the package; None where it is not there and cannot be had."""
    package = FOLDER / "node_modules" / "pyodide"
    if (package / "pyodide.mjs").is_file():
        return package
    if shutil.which("npm") is None:
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(FOLDER), RELEASE]
    try:
        done = subprocess.run(command, capture_output=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        return None
    return package if done.returncode == 0 and (package / "pyodide.mjs").is_file() else None


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tests have output of their own."""


@contextmanager
def site_at(folder: Path) -> Iterator[str]:
    """The address of a folder's files, while the body runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
