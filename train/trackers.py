"""Metric trackers of transformers that `train.report_to` names, and where they write.

Only numbers go there: losses, learning rates, the run's settings. A tracker that is not installed
is an error before training starts. What is written to files lies in the run's folder:

    tensorboard  RUN/tensorboard       (TENSORBOARD_LOGGING_DIR goes before)
    mlflow       RUN/mlflow.db         (MLFLOW_TRACKING_URI goes before)
    wandb        RUN/wandb             (WANDB_DIR goes before)
    trackio      RUN/trackio           (TRACKIO_DIR goes before)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ledger.errors import ConfigError

#: The trackers, and the package that each needs.
TRACKERS = {
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "wandb": "wandb",
}


def check(names: tuple[str, ...]) -> None:
    """Whether the trackers are known and installed.

    Raises:
        ConfigError: naming those that are not.
    """
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ConfigError(
            f"train.report_to has {', '.join(unknown)}",
            rule=f"There is: {', '.join(TRACKERS)}.",
        )
    if missing := [TRACKERS[name] for name in names if find_spec(TRACKERS[name]) is None]:
        raise ConfigError(
            f"train.report_to needs {', '.join(missing)}, which is not installed",
            remedy=f"pip install {' '.join(missing)}, or take it out of train.report_to.",
        )


@contextmanager
def writing_into(run_dir: Path, names: tuple[str, ...]) -> Iterator[None]:
    """Let trackers write into a run's folder, where the environment does not say otherwise."""
    folder = run_dir.resolve()
    ours = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard")},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": "flywheel",
        },
        "wandb": {"WANDB_DIR": str(folder), "WANDB_PROJECT": "flywheel"},
        "trackio": {"TRACKIO_DIR": str(folder / "trackio")},
    }
    set_here = {
        variable: value
        for name in names
        for variable, value in ours[name].items()
        if variable not in os.environ
    }
    os.environ.update(set_here)
    try:
        yield
    finally:
        for variable in set_here:
            os.environ.pop(variable, None)
