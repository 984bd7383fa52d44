"""Print the size and shape of the package: lines per room, longest functions and classes, layers.

python tests/benchmarks/code_size.py [--root CLONE]
"""

import argparse
import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "tinybert_lite"
LONGEST = 5  # functions and classes listed


def modules(root: Path) -> dict[str, Path]:
    """Dotted name of every module of the package and its file; an empty `__init__` is left out."""
    found = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = file
    return found


def lines(file: Path) -> int:
    """Lines of a file, blank ones and comments included."""
    return len(file.read_text(encoding="utf-8").splitlines())


def imported(name: str, file: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of the package that a module imports, and whether it does so when it is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_top = set(map(id, tree.body))
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
            targets = [t if t in known else base for t in targets]
        else:
            continue
        for target in targets:
            if target in known and target not in (name, PACKAGE):
                yield target, id(node) in at_top


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """The level of each module: one above the highest that it imports. Raises CycleError."""
    level: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        level[name] = 1 + max((level[other] for other in graph.get(name, ())), default=0)
    return level


def longest(files: dict[str, Path], kinds: tuple[type, ...]) -> list[tuple[int, str]]:
    """(lines, place) of the longest functions or classes, longest first."""
    found = []
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                found.append((node.end_lineno - node.lineno + 1, f"{name}:{node.name}"))
    return sorted(found, reverse=True)[:LONGEST]


def imports(files: dict[str, Path]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Who imports whom when it is loaded, and whenever."""
    loaded: dict[str, set[str]] = {name: set() for name in files}
    ever: dict[str, set[str]] = {name: set() for name in files}
    for name, file in files.items():
        for target, at_top in imported(name, file, files):
            ever[name].add(target)
            if at_top:
                loaded[name].add(target)
    return loaded, ever


def room(name: str) -> str:
    """The folder of a module below the package, or the top level."""
    parts = name.split(".")
    if "exercises" in parts:
        return "course/exercises"
    return parts[1] if len(parts) > 2 else "top level"


def report(root: Path) -> Iterator[str]:
    """The lines of the report."""
    files = modules(root)
    rooms: dict[str, list[int]] = {}
    for name, file in files.items():
        is_room = file.name == "__init__.py" and name != PACKAGE
        rooms.setdefault(room(f"{name}.x" if is_room else name), []).append(lines(file))
    yield f"{'where':<20}{'files':>6}{'lines':>8}"
    for where, counts in sorted(rooms.items(), key=lambda item: item[0] != "top level"):
        yield f"{where:<20}{len(counts):>6}{sum(counts):>8,}"
    apart = {"course/exercises", "explorer"}
    rest = sum(sum(counts) for where, counts in rooms.items() if where not in apart)
    yield f"{'without exercises and explorer':<26}{rest:>8,}"
    loaded, ever = imports(files)
    yield f"levels of imports: {max(levels(loaded).values())} when loaded, {cycle_or_levels(ever)}"
    functions: tuple[type, ...] = (ast.FunctionDef, ast.AsyncFunctionDef)
    for title, kinds in (("functions", functions), ("classes", (ast.ClassDef,))):
        yield f"longest {title}:"
        yield from (f"{count:>8} {place}" for count, place in longest(files, kinds))


def cycle_or_levels(graph: dict[str, set[str]]) -> str:
    """Levels where imports inside functions count too, or the cycle that they make."""
    try:
        return f"{max(levels(graph).values())} with imports inside functions"
    except CycleError as error:
        return f"a cycle with imports inside functions: {' → '.join(error.args[1])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="the clone")
    for line in report(parser.parse_args().root):
        print(line)


if __name__ == "__main__":
    main()
