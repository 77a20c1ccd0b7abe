"""How long it takes until a command says what is wrong with it.

Run: python benchmarks/refusals.py [--json]; a process a command, three minutes.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.claim import Figure, Row, run
from support.invocations import EARLY, LATE, make_files

CLAIM = "What is wrong with a command is said at once, in one line"


def refused(folder: Path, arguments: tuple[str, ...]) -> tuple[float, bool]:
    """Seconds that a process takes, and whether it says one line and exits with 2."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "zeropp.cli.main", *arguments],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    lines = done.stderr.splitlines()
    return seconds, done.returncode == 2 and len(lines) == 1 and lines[0].startswith(b"zeropp: ")


def measure() -> tuple[list[Row], list[Figure]]:
    """A row a command; those that no process can be given, by a zero byte, are left out."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name))
        for torch, cases in (("no", EARLY), ("yes", LATE)):
            for arguments in dict.fromkeys(case for _, case in cases):
                if not any("\0" in one for one in arguments):
                    seconds, well = refused(Path(name), arguments)
                    said = " ".join(arguments)[:80].encode("ascii", "replace").decode()
                    rows.append({"s": seconds, "torch": torch, "well": well, "command": said})
    early = [row["s"] for row in rows if row["torch"] == "no"]
    return rows, [
        Figure("commands that are refused without torch", len(early), 60, "", at_least=True),
        Figure("slowest of these", max(early), 2.0, "s"),
        Figure("not in one line with status 2", sum(not row["well"] for row in rows), 0, ""),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)
