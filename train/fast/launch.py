"""Several processes that train one adapter: how they are started, and how they keep together.

`accelerate launch` starts them, one a GPU. Each reads the same dataset, takes its passes of each
step (`train.fast.passes`) and adds its gradient to the others'. The first one alone writes and
speaks. By default each holds the whole base; sharded (FSDP) each holds a part and lends it to the
others, layer by layer.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ledger.settings import Settings


def command(settings: Settings) -> list[str]:
    """What stands before the name of a module that trains, instead of `python -m`.

    With `train.processes: 1` it is just that.
    """
    options = settings.train
    if options.processes == 1:
        return [sys.executable, "-m"]
    given = {
        "num_processes": options.processes,
        "num_machines": 1,
        "mixed_precision": "no",  # the base and the adapter know their number formats
        "dynamo_backend": "no",
        "main_process_port": 0,  # any that is free
    }
    if options.sharded:
        given |= {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_reshard_after_forward": "true",
            "fsdp_offload_params": "false",
        }
    words = [f"--{name}={value}" for name, value in given.items()]
    kind = "--use_fsdp" if options.sharded else "--multi_gpu"
    return [sys.executable, "-m", "accelerate.commands.launch", kind, *words, "-m"]


class Processes:
    """Those that train together; alone, everything here does nothing.

    Attributes:
        count: how many.
        rank: which of them this is.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count > 1:
            from accelerate import PartialState

            PartialState(cpu=device == "cpu")  # joins them

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.barrier()

    def least(self, number: int) -> int:
        """The smallest of a number that each has; the same for all."""
        if self.count == 1:
            return number
        import torch
        import torch.distributed

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        shared = torch.tensor(number, dtype=torch.long, device=device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MIN)
        return int(shared)

    def any(self, asked: bool) -> bool:
        """Whether it is so for one of them."""
        return self.least(int(not asked)) == 0


def full(weights: Any) -> Any:
    """Weights whole, where processes hold parts of them; each of them must ask."""
    return weights.full_tensor() if hasattr(weights, "full_tensor") else weights


def first() -> bool:
    """Whether this process writes and speaks; asked before processes have met."""
    return os.environ.get("RANK", "0") == "0"
