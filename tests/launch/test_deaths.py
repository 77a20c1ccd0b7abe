"""However a rank dies, the launcher names it and ends the others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
import torch.distributed as dist
from zeropp.launch.ranks import run_on_ranks

def live() -> None:
    dist.barrier()
    os.write(1, f"pid {os.getpid()}\\n".encode())
    dist.barrier()
    if dist.get_rank() == 1:
        WAY
    dist.barrier()

if __name__ == "__main__":
    run_on_ranks(2, "cpu", live, options={})
"""


@pytest.mark.parametrize(
    ("way", "said"),
    [
        *(
            (f"os.kill(os.getpid(), {int(s)})", f"was ended by {s.name}")
            for s in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
        ),
        ("os._exit(3)", "ended with status 3 and did not say why"),
        ("sys.exit(3)", "ended with status 3 and did not say why"),
        ("raise ValueError('no')", "failed: ValueError: no"),
    ],
)
def test_the_rank_that_dies_is_named(way: str, said: str, tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text(SCRIPT.replace("WAY", way))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"zeropp: rank 1 {said}")
    pids = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(pids) == 2
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
