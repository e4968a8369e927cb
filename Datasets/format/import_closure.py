"""Which files of this project a file imports, directly or not, found by reading and without running anything.

The same answer serves three uses: the stages' dependencies in dvc.yaml, the scripts that travel with an export, and
the code that goes into a bundle.
"""

import ast
from collections.abc import Iterable
from pathlib import Path


def module_file(module: str, root: Path) -> Path | None:
    """The file of a dotted module name below `root`, relative to it; None for a module of elsewhere."""
    base = Path(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


def imported_modules(file: Path, root: Path) -> set[str]:
    """Every dotted name that may be a module imported by `file` (relative to `root`), at any depth of its code."""
    names: set[str] = set()
    package = file.parent.parts
    for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return names


def import_closure(files: Iterable[Path], root: Path) -> list[Path]:
    """`files` and all files below `root` that they import, with the `__init__.py` of each package, sorted.

    Paths are relative to `root`. A name computed at run time (importlib) is not seen: pass such a file in `files`.
    """
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        packages = [parent / "__init__.py" for parent in file.parents if (root / parent / "__init__.py").is_file()]
        imported = (module_file(name, root) for name in imported_modules(file, root))
        waiting += [*packages, *(path for path in imported if path)]
    return sorted(found)
