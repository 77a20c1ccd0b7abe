"""The page of errors lists what the engine, heads in pieces, `zeropp.torch` and `zeropp.torchtitan`
refuse, no more and no less, with tests that say it.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
NAMED = "…: …: …"  # what another line is told with
ROOMS = ("runtime/*.py", "pieces.py", "torch/*.py", "torchtitan.py")
LISTED = dict(re.findall(r"^\| `(.+)` \| (\S+) \|$", PAGE, re.M))


def words_of(raised: ast.expr) -> str | None:
    """A message in whose place of fields are dots; None where all of it is made elsewhere."""
    if isinstance(raised, ast.Constant):
        return str(raised.value)
    if not isinstance(raised, ast.JoinedStr):
        return None
    parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in raised.values]
    return "".join(parts)


def refused() -> set[str]:
    """Of every `raise` in these rooms that has words of its own."""
    found = set()
    for path in (p for room in ROOMS for p in (ROOT / "src" / "zeropp").glob(room)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                kind = getattr(node.exc.func, "id", "")
                words = words_of(node.exc.args[0])
                if kind not in ("AssertionError", "AttributeError") and words and words != NAMED:
                    found.add(words)
    return found


def test_the_page_lists_every_refusal() -> None:
    assert set(LISTED) == refused()


def windows(line: str) -> set[str]:
    """Every three words in a row between two fields, or the fewer that are there."""
    found = set()
    for piece in re.split("…", line):
        words = re.sub(r"[;:,.()]", "", piece).split()
        starts = range(max(1, len(words) - 2))
        found |= {" ".join(words[start : start + 3]) for start in starts if words}
    return found


def test_every_refusal_has_a_test_that_has_its_words() -> None:
    for line, path in LISTED.items():
        test = re.sub(r"[;:,.()]", "", (ROOT / path).read_text("utf-8"))
        assert any(words in test for words in windows(line)) or line == "rank …: …", line
