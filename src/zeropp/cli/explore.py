"""`zeropp explore`: schedules on a page, seen, compared and edited before anything runs."""

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.verb import Verb
from zeropp.explore.server import Explorer
from zeropp.explore.site import write_site
from zeropp.ir.numbers import Bounds

_PORT = 8765
Port = Annotated[int, Bounds(0, 65535)]


@dataclass(frozen=True)
class Explore(Verb):
    """See, compare and edit schedules on a page, which this machine alone can reach."""

    port: Port = _PORT
    """Where the page is; 0: any that is free."""
    open: bool = False
    """Open the page in a browser."""
    static: Path | None = None
    """Instead of serving it, a new folder to write the page into as a site, which needs no Python
    but the browser's own."""
    pyodide: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """For --static, the folder of the npm package `pyodide`, which becomes part of the site;
    without it, browsers ask for it at the address of its release."""

    def perform(self) -> int:
        """Serve until stopped, or write the site."""
        if self.static is not None:
            if self.open or self.port != _PORT:
                raise ValueError("static: a site is not served here; leave out --port and --open")
            write_site(self.static, self.pyodide)
            print(f"{self.static}: serve this folder, and open its index.html")
            return 0
        if self.pyodide is not None:
            raise ValueError("pyodide is for a site; add --static, or leave it out")
        with Explorer(self.port) as server:
            print(f"{server.address}  (Ctrl-C ends it)", flush=True)
            if self.open:
                webbrowser.open(server.address)
            server.serve_forever()
        return 0
