"""Domain modules are given time, randomness and ids: with the same arguments they give the same answer, always.

Import contracts can't say this, since a kernel module that a domain needs may offer a clock as well. So each domain
module, and each module of its own service that it reaches, is read here.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: The module that decides, where it is not called domain.
DECIDES = {"policy": "decision"}
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))
IMPURE_MODULES = {
    "asyncio", "io", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "shutil", "socket", "ssl",
    "subprocess", "sys", "tempfile", "time", "urllib.request", "uuid",
}  # fmt: skip
#: Names of the kernel that read the clock or draw randomness.
IMPURE_NAMES = {"now_ms", "new_id"}
IMPURE_CALLS = {"open", "input", "print", "now", "utcnow", "today", "urandom", "getenv"}
#: Kernel modules that must be as pure, and need no service to be read.
KERNEL = ("ucan", "catalogue", "request", "events", "keys")
#: The catalogue reads its files in one module.
READERS = {"catalogue/load.py"}


def service_file(service: str, module: str) -> Path:
    return ROOT / "services" / service / f"nomos_{service}" / f"{module}.py"


def reached(service: str) -> list[Path]:
    """The deciding module of a service and what it imports from its own service."""
    found: dict[str, Path] = {}
    waiting = [DECIDES.get(service, "domain")]
    while waiting:
        module = waiting.pop()
        path = service_file(service, module)
        if module in found or not path.exists():
            continue
        found[module] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"nomos_{service}"):
                _, _, inner = (node.module or "").partition(".")
                waiting += [inner] if inner else [alias.name for alias in node.names]
    assert found, f"services/{service} has no module that decides"
    return list(found.values())


def impurities(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found += [f"import {a.name}" for a in names if a.name in IMPURE_MODULES]
            case ast.ImportFrom(module=module, names=names):
                if module in IMPURE_MODULES:
                    found.append(f"from {module} import …")
                found += [f"from {module} import {a.name}" for a in names if a.name in IMPURE_NAMES]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in IMPURE_CALLS:
                found.append(f"{name}() in line {node.lineno}")
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_domain_reads_no_clock_draws_no_randomness_and_does_no_io(service: str) -> None:
    found = {path.name: impurities(path) for path in reached(service)}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("name", KERNEL)
def test_pure_kernel_modules_read_no_clock_and_draw_no_randomness(name: str) -> None:
    base = ROOT / "shared" / "kernel" / "nomos"
    paths = list((base / name).rglob("*.py")) or [base / f"{name}.py"]
    found = {path.relative_to(base).as_posix(): impurities(path) for path in paths}
    assert {name: lines for name, lines in found.items() if lines and name not in READERS} == {}


def test_an_impure_module_is_found(tmp_path: Path) -> None:
    module = tmp_path / "domain.py"
    module.write_text("import time\nfrom nomos.ids import new_id\nfrom datetime import datetime\ndatetime.now()\n")
    assert len(impurities(module)) == 3
