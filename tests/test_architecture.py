"""The architecture as a test: arrows between packages, purity of the core, sizes, and no unfinished work.

Everything is read from the syntax tree of the files as they are; there is no list of exceptions.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    ROOT / folder
    for folder in ("gateway", "tests", "examples", "benchmarks", "toolpacks", "sandboxes", "scripts")
]
MAX_LINES = 600
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")

CORE_THIRD_PARTY = {
    "annotated_types",
    "cel_expr_python",
    "jsonschema_rs",
    "pydantic",
    "pydantic_core",
    "re2",
    "typing_extensions",
    "yaml",
}
CORE_BANNED_STDLIB = {
    # Named by the architecture: the machine, the clock, chance and concurrency...
    *("os", "time", "random", "asyncio"),
    # ...and the other ways to reach them.
    *(
        "concurrent",
        "glob",
        "http",
        "io",
        "multiprocessing",
        "platform",
        "secrets",
        "select",
        "selectors",
        "shutil",
    ),
    *(
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "urllib.request",
        "uuid",
    ),
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def files(*folders: Path) -> list[Path]:
    found = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts and "node_modules" not in path.parts]


def package(*names: str) -> list[Path]:
    """Return the files of `gateway/<name>` for each name, a package or a module."""
    modules = [ROOT / "gateway" / f"{name}.py" for name in names]
    return [path for path in modules if path.exists()] + files(*(ROOT / "gateway" / name for name in names))


def where(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Yield every module that `path` imports, wherever in the file, as an absolute name."""
    own = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join((*own[: -node.level], node.module or "")).strip(".")
                if node.level
                else node.module or ""
            )
            yield node, base
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def within(name: str, package_name: str) -> bool:
    return name == package_name or name.startswith(package_name + ".")


def offenders(paths: list[Path], banned: Callable[[str], bool]) -> list[str]:
    return [
        f"{where(path, node)} imports {name}"
        for path in paths
        for node, name in imports(path)
        if banned(name)
    ]


def test_core_imports_only_the_pure_standard_library_and_data_libraries() -> None:
    def banned(name: str) -> bool:
        if any(within(name, bad) for bad in CORE_BANNED_STDLIB):
            return True
        top = name.partition(".")[0]
        if top == "gateway":
            return (
                name != "gateway" and not within(name, "gateway.core") and not within(name, "gateway.errors")
            )
        return top not in sys.stdlib_module_names and top not in CORE_THIRD_PARTY

    assert offenders(package("core"), banned) == []


def test_core_takes_only_the_pure_half_of_pathlib_and_of_urllib() -> None:
    allowed = {"pathlib.PurePath", "pathlib.PurePosixPath", "urllib.parse"}
    watched = ("pathlib.", "urllib.")
    assert (
        offenders(
            package("core"), lambda name: name.startswith(watched) and not name.startswith(tuple(allowed))
        )
        == []
    )


def test_core_neither_awaits_nor_opens_nor_prints_nor_reads_the_clock() -> None:
    def impure(node: ast.AST) -> bool:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            return True
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Name):
            return node.func.id in {"open", "print", "input", "exec", "eval", "__import__"}
        return isinstance(node.func, ast.Attribute) and node.func.attr in {
            "now",
            "utcnow",
            "today",
            "read_text",
        }

    assert [
        where(path, node) for path in package("core") for node in ast.walk(tree(path)) if impure(node)
    ] == []


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("core", ("sandbox", "runtime", "serve", "cli", "config", "training")),
        ("errors", ("core", "sandbox", "runtime", "serve", "cli", "config", "training")),
        ("sandbox", ("runtime", "serve", "cli", "config", "training")),
        ("runtime", ("serve", "cli", "config", "training")),
        ("serve", ("cli", "config", "training")),
        ("config", ("sandbox", "runtime", "serve", "cli", "training")),
        ("training", ("sandbox", "runtime", "serve", "cli", "config")),
    ],
)
def test_arrows_point_one_way(importer: str, forbidden: tuple[str, ...]) -> None:
    targets = [f"gateway.{name}" for name in forbidden]
    assert offenders(package(importer), lambda name: any(within(name, target) for target in targets)) == []


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Return those of `modules` that `path` imports, for types too; to import a module is not its package."""
    found = set[str]()
    for node, names in groupby(imports(path), key=lambda pair: pair[0]):
        known = [name for _, name in names if name in modules]
        if isinstance(node, ast.ImportFrom) and len(known) > len(node.names):
            del known[0]
        found.update(known)
    return found


def test_no_imports_of_the_gateway_run_in_a_circle() -> None:
    named = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files(ROOT / "gateway")
    }
    arrows = {name: imported_modules(path, set(named)) for name, path in named.items()}
    circle = list[str]()
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
    assert circle == []


@pytest.mark.parametrize(
    ("library", "importers"),
    [
        ("mcp", ("gateway/serve/mcp/", "gateway/runtime/upstream")),
        ("starlette", ("gateway/serve/",)),
        ("jwt", ("gateway/serve/oauth/",)),
        ("httpx2", ("gateway/serve/oauth/keys.py",)),
        ("opentelemetry", ("gateway/runtime/tracing.py", "gateway/cli/tracing.py")),
        ("prometheus_client", ("gateway/serve/metrics.py",)),
        ("docker", ("gateway/sandbox/docker.py",)),
        ("cel_expr_python", ("gateway/core/policy/expressions.py",)),
        ("typer", ("gateway/cli/",)),
        ("asyncio", ("gateway/loop.py",)),
    ],
)
def test_a_library_has_one_place(library: str, importers: tuple[str, ...]) -> None:
    elsewhere = [
        path
        for path in files(ROOT / "gateway")
        if not any(path.relative_to(ROOT).as_posix().startswith(place) for place in importers)
    ]
    assert offenders(elsewhere, lambda name: within(name, library)) == []


def test_the_gateway_depends_on_neither_openenv_nor_fastmcp() -> None:
    assert (
        offenders(files(ROOT / "gateway"), lambda name: name.partition(".")[0] in {"openenv", "fastmcp"})
        == []
    )


def test_the_gateway_never_imports_a_toolpack() -> None:
    assert (
        offenders(files(ROOT / "gateway"), lambda name: name.partition(".")[0] in {"toolpacks", "tests"})
        == []
    )


def attributes(path: Path, module: str, names: set[str]) -> list[str]:
    """Return where `path` uses `module.name`, or imports the name from the module."""
    used: list[str] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            hit = node.value.id == module and node.attr in names
        else:
            hit = (
                isinstance(node, ast.ImportFrom)
                and node.module == module
                and bool(names & {alias.name for alias in node.names})
            )
        if hit:
            used.append(where(path, node))
    return used


def test_only_config_reads_the_environment() -> None:
    reader = ROOT / "gateway" / "config.py"
    others = [path for path in files(ROOT / "gateway") if path != reader and not inside_sandboxes(path)]
    assert [
        hit for path in others for hit in attributes(path, "os", {"environ", "environb", "getenv", "putenv"})
    ] == []


def test_only_the_clock_reads_the_clock() -> None:
    names = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"}
    clock = ROOT / "gateway" / "runtime" / "clock.py"
    launcher = ROOT / "gateway" / "sandbox" / "launcher"  # another program, in a process of its own
    others = [path for path in files(ROOT / "gateway") if path != clock and path.parent != launcher]
    assert [hit for path in others for hit in attributes(path, "time", names)] == []


def inside_sandboxes(path: Path) -> bool:
    """Whether the file is a program of its own that runs in another process, as its first line says."""
    return (ast.get_docstring(tree(path)) or "").startswith("Runs inside a sandbox")


def test_only_the_command_line_prints() -> None:
    def prints(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"

    others = [path for path in files(ROOT / "gateway") if path.relative_to(ROOT).parts[1] != "cli"]
    printing = [
        where(path, node)
        for path in others
        if not inside_sandboxes(path)
        for node in ast.walk(tree(path))
        if prints(node)
    ]
    assert printing == []


def test_no_module_is_longer_than_six_hundred_lines() -> None:
    sizes = {where(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files(*CODE)}
    assert {path: lines for path, lines in sizes.items() if lines > MAX_LINES} == {}


def test_nothing_is_left_unfinished() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in files(*CODE)}
    assert [
        f"{where(path)}: {mark}" for path, text in texts.items() for mark in UNFINISHED if mark in text
    ] == []


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef | None]]:
    """Yield each function with the class it stands in, if any."""
    for parent in ast.walk(tree(path)):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, parent if isinstance(parent, ast.ClassDef) else None


def does_nothing(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    body = [
        node
        for node in function.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    return all(isinstance(node, ast.Pass) for node in body)


def is_declaration(function: ast.FunctionDef | ast.AsyncFunctionDef, owner: ast.ClassDef | None) -> bool:
    """Whether the function declares a protocol's method or an overload, which have no body by nature."""
    bases = {ast.unparse(base).partition("[")[0] for base in owner.bases} if owner else set[str]()
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    return bool(bases & {"Protocol", "typing.Protocol"} or decorators & {"overload", "abstractmethod"})


def test_no_function_of_the_gateway_is_a_stub() -> None:
    stubs = [
        f"{where(path, function)} {function.name}"
        for path in files(ROOT / "gateway")
        for function, owner in functions(path)
        if does_nothing(function) and not is_declaration(function, owner)
    ]
    assert stubs == []


def test_no_handler_swallows_every_exception() -> None:
    def swallows(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.ExceptHandler)
            and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
            and all(isinstance(statement, ast.Pass) for statement in node.body)
        )

    assert [
        where(path, node) for path in files(*CODE) for node in ast.walk(tree(path)) if swallows(node)
    ] == []


def asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    return (name.startswith("pytest.") and name.endswith(("raises", "warns", "fail"))) or name.rpartition(
        "."
    )[2].startswith(("assert_", "check_", "expect_"))


def test_every_test_asserts_something() -> None:
    silent = [
        f"{where(path, function)} {function.name}"
        for path in files(ROOT / "tests")
        if path.name.startswith("test_")
        for function, _ in functions(path)
        if function.name.startswith("test_") and not any(asserts(node) for node in ast.walk(function))
    ]
    assert silent == []


def test_every_skip_gives_a_reason() -> None:
    def unexplained(node: ast.AST) -> bool:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        if ast.unparse(node.func) in {"pytest.mark.skip", "pytest.mark.skipif"}:
            return not any(keyword.arg == "reason" for keyword in node.keywords)
        return ast.unparse(node.func) == "pytest.skip" and not (node.args or node.keywords)

    bare = {
        where(path, node)
        for path in files(ROOT / "tests")
        for node in ast.walk(tree(path))
        if unexplained(node)
    }
    assert bare == set()


def undocumented(path: Path) -> Iterator[str]:
    """Yield the public module, classes and functions of `path` without a docstring."""
    if ast.get_docstring(tree(path)) is None:
        yield where(path)
    for parent in (tree(path), *(node for node in tree(path).body if isinstance(node, ast.ClassDef))):
        if isinstance(parent, ast.ClassDef) and parent.name.startswith("_"):
            continue
        for node in parent.body:
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            if isinstance(node, kinds) and not node.name.startswith("_") and ast.get_docstring(node) is None:
                yield f"{where(path, node)} {node.name}"


def test_everything_public_says_what_it_is() -> None:
    assert [name for path in files(ROOT / "gateway") for name in undocumented(path)] == []
