"""The tree under test: its root, its files, its members."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """Files that are in the repository or would go into it with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout.decode()  # fmt: skip
    # A file that was removed and not yet committed is still listed.
    found = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in found if path.is_file()]


@pytest.fixture(scope="session")
def services() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))


@pytest.fixture(scope="session")
def test_names() -> set[str]:
    """Every test function of the tree."""
    import ast

    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                names.add(node.name)
    return names
