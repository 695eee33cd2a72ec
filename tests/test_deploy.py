"""What deploys Flywheel is well formed: against the schemas of those who read it, and against our
own commands, settings and paths."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from flywheel.cli import cli
from ledger.settings import load
from serve.guard import OPEN

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").iterdir())
#: Releases that are still cared for.
RELEASES = ("1.33", "1.35", "1.37")


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in KUBERNETES:
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            yield file.name, one


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, one in objects():
        if one["kind"] == "Deployment":
            yield name, one["spec"]["template"]["spec"]
        elif one["kind"] == "CronJob":
            yield name, one["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("release", RELEASES)
def test_the_manifests_fit_the_schema_of_kubernetes(release: str) -> None:
    import kubernetes_validate

    checked = 0
    for name, one in objects():
        if one["kind"] == "Kustomization":
            continue
        kubernetes_validate.validate(one, release, strict=True)
        checked += 1
        assert one["metadata"]["name"].startswith("flywheel"), name
    assert checked == 8


def test_a_manifest_with_a_mistake_is_noticed() -> None:
    import kubernetes_validate

    one = next(one for _, one in objects() if one["kind"] == "CronJob")
    one["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, RELEASES[-1], strict=True)


def test_kustomize_finds_every_manifest() -> None:
    made = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    assert sorted(made["resources"]) == [
        file.name for file in KUBERNETES if file.name != "kustomization.yaml"
    ]


def test_what_the_pods_mount_is_declared_and_what_they_run_exists() -> None:
    claims = {one["metadata"]["name"] for _, one in objects() if "PersistentVolume" in one["kind"]}
    maps = {"flywheel", "flywheel-gold"}
    seen = 0
    for name, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims, name
            if made := volume.get("configMap"):
                assert made["name"] in maps, name
        for container in pod["containers"]:
            seen += 1
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes), name
            assert_command(container["args"])
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = container.get(probe, {}).get("httpGet", {}).get("path")
                assert path is None or path in {*OPEN, "/login"}, (name, path)
    assert seen == 3


def test_the_compose_file_fits_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_runs_commands_that_exist_and_mounts_files_that_are_there() -> None:
    made = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    ours = {name: one for name, one in made["services"].items() if one.get("image") == "flywheel"}
    assert set(ours) == {"serve", "loop", "review"}
    for one in ours.values():
        assert_command(one["command"])
        for volume in one["volumes"]:
            source = volume.split(":")[0]
            assert source in made["volumes"] or (DEPLOY / source).exists(), source
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    given = {line.split("=")[0] for line in (DEPLOY / "example.env").read_text().splitlines()}
    assert asked <= given


def assert_command(words: list[str]) -> None:
    """A flywheel command with options that it knows."""
    command = cli.commands[words[0]]
    context = click.Context(command, info_name=words[0])
    parser = command.make_parser(context)
    _, left, _ = parser.parse_args(list(words[1:]))
    assert left == [] or left == [None], (words, left)


def test_the_configuration_of_the_containers_can_be_read() -> None:
    settings = load(DEPLOY / "flywheel.yaml")
    assert settings.ledger.url.startswith("postgresql+psycopg://")
    mounted = {m["mountPath"] for _, pod in pods() for c in pod["containers"]
               for m in c["volumeMounts"]}  # fmt: skip
    assert str(settings.var) in mounted
    for path in settings.aliases["support"].gate.gold:
        assert str(path.parent) in mounted
    assert str(settings.privacy.key_file).startswith(str(settings.var))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_units_are_what_systemd_reads(unit: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    # The program of the unit is not on this machine; any other will do for the rest of the check.
    for file in UNITS:
        text = file.read_text().replace("/opt/flywheel/.venv/bin/flywheel", shutil.which("true"))
        (tmp_path / file.name).write_text(text)
    done = subprocess.run(
        [verify, "verify", "--man=no", tmp_path / unit.name], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert ours == []


def test_the_units_run_commands_that_exist() -> None:
    found = 0
    for unit in UNITS:
        for line in re.findall(r"^ExecStart=\S+/flywheel (.*)$", unit.read_text(), re.MULTILINE):
            assert_command(line.split())
            found += 1
    assert found == 3


def test_the_image_is_built_from_files_that_are_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert "requirements/install.py" in text
    assert (DEPLOY.parent / "requirements/install.py").exists()
    assert "FLYWHEEL_LOCK=gpu" in text
