"""The whole loop once, as a newcomer runs it: the demo, with the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import embedded_model

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.slow
def test_the_loop_turns(tmp_path: Path) -> None:
    """Corrections become an adapter that beats the base, goes live, back and forth again."""
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    config["var"] = str(tmp_path)
    config["model"]["path"] = str(embedded_model())
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "flywheel.cli", "--config", str(file), "demo", "--json"]
    words += ["--gold-size", "80"]
    if DATA.is_dir():
        words += ["--data", str(DATA / "banking77_train.csv")]
        words += ["--gold", str(DATA / "banking77_test.csv")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "demo" / "report.json").read_text())
    assert report["failed_requests"] == 0, report["failures"]
    assert report["mixed_version_responses"] == 0
    assert report["rows_logged"] == report["requests"] >= 300
    assert report["corrections"] == report["pairs"] + _left_out(tmp_path)
    # Who only voted taught nothing; their answers wait for a person.
    assert report["votes"] > 0
    assert report["waiting"] >= report["votes"]
    assert report["gold_base"] <= 0.1
    # Measured: see benchmarks/RESULTS.md. 80 questions leave room for 9 points of chance.
    assert report["gold_live"] >= 0.7
    assert report["gate"]["verdict"] == "pass"
    assert report["gate"]["interval"][0] > 0.5
    assert report["rollback_seconds"] < 2
    assert set(report["versions"]) == {"smollm2-135m", "support@v1"}
    # What a person reads on the way says what happened.
    for said in ("users write", "may take traffic", "Rollback", "obeyed after"):
        assert said in done.stderr


def _left_out(home: Path) -> int:
    [manifest] = home.glob("demo/runs/*/dataset/manifest.json")
    return sum(map(len, json.loads(manifest.read_text())["left_out"].values()))
