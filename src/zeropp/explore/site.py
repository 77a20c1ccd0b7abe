"""The page as a static site: the half without torch runs in the browser's own Python (Pyodide).

index.html, *.js, page.css   the page, as the server has it
engine.json                  where Pyodide is
zeropp.zip                   our rooms without torch, and the pure packages that they need
pyodide/                     Pyodide itself, where it was given
"""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from importlib.metadata import files as files_of
from importlib.resources import files
from pathlib import Path

from zeropp.explore.server import page_files
from zeropp.ir.files import explained, new_folder, require_new

_ROOMS = ("costs", "explore", "generate", "ir", "planner", "program", "show", "simulate")
_MODULES = ("__init__", "plan", "refusal", "scenario", "torch/__init__", "torch/text")
_NEEDED = ("attrs", "cattrs", "typing_extensions", "tomli_w")
_PYODIDE = (
    *("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm"),
    *("python_stdlib.zip", "pyodide-lock.json"),
)
_RELEASE = "https://cdn.jsdelivr.net/pyodide/v314.0.7/full/"


def write_site(folder: Path, pyodide: Path | None) -> None:
    """Write it into a new folder.

    Args:
        folder: is made.
        pyodide: the folder of the npm package; None: its release's address is named.

    Raises:
        ValueError: the folder is there already or cannot be written, or `pyodide` lacks a file.
    """
    require_new("static", folder)
    if pyodide is not None and (lacks := _lacking(pyodide)):
        raise ValueError(
            f"pyodide: {pyodide} has no {lacks}; name the folder of the npm package pyodide"
        )
    with new_folder("static", folder), explained("static: cannot write", folder):
        for name, content in page_files().items():
            (folder / name).write_bytes(content)
        at = _RELEASE if pyodide is None else "pyodide/"
        (folder / "engine.json").write_text(json.dumps({"engine": "browser", "pyodide": at}))
        (folder / "zeropp.zip").write_bytes(bundle())
        if pyodide is not None:
            (folder / "pyodide").mkdir()
            for name in _PYODIDE:
                shutil.copyfile(pyodide / name, folder / "pyodide" / name)


def bundle() -> bytes:
    """A zip file of all that the browser's Python imports."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted([*_own(), *_others()]):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _lacking(pyodide: Path) -> str | None:
    return next((name for name in _PYODIDE if not (pyodide / name).is_file()), None)


def _own() -> Iterator[tuple[str, bytes]]:
    root = files("zeropp")
    for name in _MODULES:
        yield f"zeropp/{name}.py", (root / f"{name}.py").read_bytes()
    for room in _ROOMS:
        for file in (root / room).iterdir():
            if file.name.endswith(".py"):
                yield f"zeropp/{room}/{file.name}", file.read_bytes()


def _others() -> Iterator[tuple[str, bytes]]:
    """Of the installed packages; nothing in them is compiled."""
    for package in _NEEDED:
        for file in files_of(package) or ():
            if file.suffix == ".py":
                yield file.as_posix(), file.read_binary()
