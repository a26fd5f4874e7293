"""The house's rules (DESIGN: rooms, imports point down, no pickle, nothing at import) as tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "levelhead"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LAYERS = (
    "__main__",
    "cli",
    "papers",
    "serving watching",
    "studies estimator translation",
    "deploy report",
    "training",
    "runs",
    "judging",
    "figures",
    "metrics calibrators decisions representation",
    "statistics",
    "outputs data models losses",
    "targets",
    "recipe files text machine labels delimited",
    "errors",
)
"""The rooms from the top down: a room imports from its own line and from those below it."""
FLOOR = {room: len(LAYERS) - i for i, rooms in enumerate(LAYERS) for room in rooms.split()}


def parse(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room(path: Path) -> str:
    """First name under levelhead: the room that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a tree imports, inside functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    """Rooms of levelhead that a file imports."""
    names = (name.split(".") for name in imports(parse(path)))
    return {parts[1] for parts in names if parts[0] == "levelhead" and len(parts) > 1}


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a dotted name, with the name as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    """Else the command line would be needed to train, or a run folder to judge anyone's Outputs."""
    if room(path) == "__init__":  # the tour names everything, lazily
        return
    own = FLOOR[room(path)]
    assert not {name for name in rooms_used(path) if FLOOR[name] > own}


def test_no_two_files_share_a_name() -> None:
    """Else `from levelhead.x import audit` and an error's "audit.py" could mean two files."""
    names = [path.name for path in SOURCES if path.name not in ("__init__.py", "__main__.py")]
    assert sorted(names) == sorted(set(names))


def test_rooms_import_no_circle() -> None:
    """Else which room can be read first depends on which was imported first."""
    used: dict[str, set[str]] = {}
    for path in SOURCES:
        if room(path) != "__init__":
            used.setdefault(room(path), set()).update(rooms_used(path) - {room(path)})
    while used:
        leaves = [name for name, below in used.items() if not below & used.keys()]
        assert leaves, f"these import each other: {used}"
        for name in leaves:
            del used[name]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_in_files(path: Path) -> None:
    """Else opening a file from a stranger could run what the stranger wrote into it."""
    tree = parse(path)
    pickles = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not {name.split(".")[0] for name in imports(tree)} & pickles
    for name, call in called(tree):
        options = {option.arg: option.value for option in call.keywords}
        assert name not in ("torch.save", "eval", "exec", "torch.hub.load"), name
        if name == "torch.load":
            assert path.name == "weights.py"
            assert ast.unparse(options["weights_only"]) == "True"
        if "allow_pickle" in options:
            assert ast.unparse(options["allow_pickle"]) == "False"


def test_import_is_light() -> None:
    """Else `levelhead --help` would wait for torch, and reading the version would need it."""
    heavy = "torch", "matplotlib", "sklearn", "numpy", "cv2", "pyarrow", "timm", "rich", "PIL"
    code = f"import sys, levelhead; print(*sorted(set({heavy!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_tour_holds_what_it_names() -> None:
    """Else `levelhead.train(...)` would fail in a user's hands, once the room `train` is loaded."""
    code = """
import levelhead
for _ in range(2):
    for name in levelhead.__all__:
        assert callable(getattr(levelhead, name)), name
"""
    for first in ("", "import levelhead.training.loop, levelhead.studies.compare\n"):
        done = subprocess.run(
            [sys.executable, "-c", first + code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def kept_files() -> list[Path]:
    """Text files that are in the repository, or would be with the next commit."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    names = (name for name in done.stdout.split("\0") if name)
    files = (ROOT / name for name in dict.fromkeys(names))
    return [file for file in files if file.is_file() and b"\0" not in file.read_bytes()[:8192]]


# Bracketed letters keep these patterns from finding themselves.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.$~)}\]/-])/(?:w[o]rk|r[o]ot|h[o]me|Us[e]rs|f[a]rm)/\w",
    "an address of a package index": r"(?:https?|file):[^\s)\"'`]*/(?:s[i]mple|w[h]l)\b"
    r"|https?://[\w.-]*(?:p[y]pi|pyth[o]nhosted|npmjs|deb[i]an)"
    r"|(?:ind[e]x-url|find-l[i]nks)[ =]+\w+:",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_name_no_machine(what: str) -> None:
    """Else the project works on the machine it was written on, and nowhere else."""
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in kept_files()
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, what


# Methods that a library calls, and which do what the library says.
HOOKS = {"forward", "step", "error"}


def public(tree: ast.Module) -> Iterator[ast.Module | ast.FunctionDef | ast.ClassDef]:
    """The module, its public functions and classes, and their methods (not protocols', hooks)."""

    def named(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield node

    yield tree
    for node in named(tree.body):
        yield node
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
            for method in named(node.body):
                decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
                if method.name not in HOOKS and "property" not in decorators:
                    yield method


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_say_what_they_do(path: Path) -> None:
    """Else a reader must read the code to know what it is for."""
    silent = [node for node in public(parse(path)) if not ast.get_docstring(node)]
    assert not [getattr(node, "name", "the module") for node in silent]
