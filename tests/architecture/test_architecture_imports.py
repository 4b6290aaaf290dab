"""Who imports whom: the contracts of pyproject.toml hold, and they cover every member of the workspace."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SHARED = {"nomos", "nomos_runtime", "nomos_web"}
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture(scope="module")
def settings(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_import_contracts_are_kept(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_member_is_under_contract(settings: dict, services: list[str]) -> None:
    packages = {*SHARED, *(f"nomos_{name}" for name in services)}
    contracts = {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    assert set(settings["tool"]["importlinter"]["root_packages"]) == packages
    assert set(contracts["services never import each other"]["modules"]) == packages - SHARED
    top = contracts["services -> web -> runtime -> kernel"]["layers"][0]
    assert set(top.split(" | ")) == packages - SHARED


def test_every_service_has_its_domain_under_contract(settings: dict, services: list[str]) -> None:
    contracts = {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    covered = {module.partition(".")[0] for module in contracts["domain modules do no IO"]["source_modules"]}
    assert covered == {f"nomos_{name}" for name in services}


def test_every_member_is_type_checked(root: Path, settings: dict) -> None:
    folders = {path.parent.relative_to(root).as_posix() for path in root.glob("*/*/pyproject.toml")}
    assert set(settings["tool"]["mypy"]["mypy_path"].split(":")) == folders


def test_members_depend_only_downwards(root: Path) -> None:
    allowed = {
        "shared/kernel": set(),
        "shared/runtime": {"nomos-authz"},
        "shared/web": {"nomos-authz", "nomos-authz-runtime"},
    }
    for path in root.glob("*/*/pyproject.toml"):
        member = path.parent.relative_to(root).as_posix()
        wanted = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
        ours = {name for name in wanted if name.startswith("nomos-")}
        assert ours <= allowed.get(member, {"nomos-authz", "nomos-authz-runtime", "nomos-authz-web"}), member
