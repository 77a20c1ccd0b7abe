"""The page about torch's releases names the script's usage, and the script rejects what is none."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "test-torch"
PAGE = (ROOT / "docs" / "compat.md").read_text("utf-8")


def complaint(*args: str) -> str:
    """What the script says on its error stream, having refused its arguments."""
    done = subprocess.run(
        [str(SCRIPT), *args], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_page_has_the_usage_of_the_script() -> None:
    usage = complaint().rstrip().rpartition("usage: ")[2]
    assert f"    {usage}\n" in PAGE


@pytest.mark.parametrize("version", ["2.10.0", "2.16.0", "2.15", "2.15.0rc1", "latest", "", "-h"])
def test_the_script_rejects_a_bad_version(version: str) -> None:
    assert "VERSION must be a release from 2.11.0 to 2.15.x" in complaint(version)


def test_the_script_rejects_a_second_argument() -> None:
    assert "usage: " in complaint("2.15.0", "2.14.1")


def test_the_script_accepts_what_the_package_does() -> None:
    pattern = re.search(r"=~ (\S+) \]\]", SCRIPT.read_text("utf-8"))
    assert pattern is not None
    accepted = [minor for minor in range(30) if re.match(pattern[1], f"2.{minor}.0")]
    bounds = f'"torch>=2.{accepted[0]},<2.{accepted[-1] + 1}"'
    assert bounds in (ROOT / "pyproject.toml").read_text("utf-8")


def test_every_release_of_torch_has_passed() -> None:
    rows = re.findall(r"^\| (2\.\d+)\.\d+ \|.* (\d+) passed, 0 failed \|", PAGE, flags=re.MULTILINE)
    assert {"2.11", "2.13", "2.14", "2.15"} <= {release for release, _ in rows}
