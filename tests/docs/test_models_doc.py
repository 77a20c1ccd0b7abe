"""The page about models names the script for a release, and the script rejects what is none."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "test-transformers"
PAGE = (ROOT / "docs" / "models.md").read_text("utf-8")


def complaint(*args: str) -> str:
    """What the script says on its error stream, having refused its arguments."""
    done = subprocess.run(
        [str(SCRIPT), *args], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_the_page_has_the_usage_of_the_script() -> None:
    usage = complaint().rstrip().rpartition("usage: ")[2]
    assert f"    {usage}\n" in PAGE


@pytest.mark.parametrize("version", ["4.56.1", "6.0.0", "5.24", "latest", ""])
def test_the_script_rejects_a_bad_version(version: str) -> None:
    assert "VERSION must be a release of 4.57 or 5" in complaint(version)
