"""The house stays small and in order: files, functions, imports, and the page that draws it."""

import ast
import re
import symtable
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "src").rglob("*.py"))
}
ENGINE = "zeropp.runtime.pipeline"
NOT_BELOW_THE_ENGINE = ("planner", "generate", "simulate", "costs", "show", "train", "plan")


def imported(module: str) -> set[str]:
    """Our modules that `module` imports: anywhere in it, also in functions, and by name."""
    return {name for name in _named(ast.parse(FILES[module].read_text())) if name in FILES}


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("zeropp."):
            yield str(node.value)


GRAPH: Mapping[str, set[str]] = {module: imported(module) - {module} for module in FILES}


@cache
def longest_chain(module: str) -> tuple[str, ...]:
    """The most imports that follow each other from `module` on."""
    return (module, *max(map(longest_chain, GRAPH[module]), key=len, default=()))


def reached(module: str) -> set[str]:
    """`module` and all that it imports, directly or not."""
    found, todo = {module}, [module]
    while todo:
        new = GRAPH[todo.pop()] - found
        found |= new
        todo += new
    return found


def lines_of(module: str) -> int:
    return len(FILES[module].read_text().splitlines())


def test_no_file_is_over_400_lines() -> None:
    assert [module for module in FILES if lines_of(module) > 400] == []


def test_functions_are_short() -> None:
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert median(lengths.values()) <= 7
    assert {name: n for name, n in lengths.items() if n > 60} == {}


def test_no_module_imports_itself_by_a_detour() -> None:
    assert [module for module in FILES if any(module in reached(m) for m in GRAPH[module])] == []


def test_the_engine_is_read_in_an_evening() -> None:
    engine = reached(ENGINE)
    assert len(engine) <= 45
    assert sum(map(lines_of, engine)) <= 5_500
    assert len(longest_chain(ENGINE)) <= 12, longest_chain(ENGINE)
    rooms = {module.split(".")[1] for module in engine if "." in module}
    assert rooms.isdisjoint(NOT_BELOW_THE_ENGINE)


def test_no_module_is_named_as_a_public_function_beside_it() -> None:
    for package in (module for module, file in FILES.items() if file.name == "__init__.py"):
        tree = ast.parse(FILES[package].read_text())
        public = {
            constant.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for constant in ast.walk(node.value)
            if isinstance(constant, ast.Constant)
        }
        assert {name for name in public if f"{package}.{name}" in FILES} == set()


def test_the_page_of_the_house_shows_every_room() -> None:
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^    ([a-z_]+(?:/|\.py)) ", page, re.M))
    below = (ROOT / "src" / "zeropp").iterdir()
    rooms = {f"{p.name}/" if p.is_dir() else p.name for p in below if p.suffix in ("", ".py")}
    assert drawn == rooms - {"__pycache__/", "__init__.py"}
    for room, files in re.findall(
        r"^    ([a-z_]+)/ .*?\n        (.*(?:\n        .*)*)", page, re.M
    ):
        own = {p.stem for p in (ROOT / "src" / "zeropp" / room).glob("*.py")} - {"__init__"}
        assert set(re.findall(r"[a-z_]+", files)) == own, room


def confused(table: symtable.SymbolTable) -> Iterator[str]:
    """Names that a comprehension binds and its function has from another one around it: CPython
    3.12 takes the one for the other where both are read.
    """
    free = set(table.get_frees()) if isinstance(table, symtable.Function) else set()
    for inner in table.get_children():
        if inner.get_name() in ("listcomp", "setcomp", "dictcomp"):
            bound = {symbol.get_name() for symbol in inner.get_symbols() if symbol.is_local()}
            yield from (f"{table.get_name()}: {name}" for name in bound & free)
        yield from confused(inner)


def test_no_comprehension_takes_the_name_of_an_outer_variable() -> None:
    before = "def f(a):\n def g():\n  return (a for _ in a), [a for a in 'x']\n return g"
    assert [*confused(symtable.symtable(before, "x", "exec"))] == ["g: a"]
    found = {
        module: [*confused(symtable.symtable(file.read_text(), str(file), "exec"))]
        for module, file in FILES.items()
    }
    assert {module: names for module, names in found.items() if names} == {}
