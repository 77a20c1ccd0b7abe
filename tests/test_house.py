"""Source files and functions stay small."""

import ast
from pathlib import Path
from statistics import median

FILES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))


def test_no_file_is_over_400_lines() -> None:
    assert [str(f) for f in FILES if len(f.read_text().splitlines()) > 400] == []


def test_functions_are_short() -> None:
    lengths = {
        f"{file.name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert median(lengths.values()) <= 12
    assert {name: n for name, n in lengths.items() if n > 60} == {}
