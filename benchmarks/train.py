"""How fast an adapter of the embedded model trains on the CPU, against plain SFTTrainer.

    python -m benchmarks.train [--json FILE]

Both train the same adapter on the same rows: chats with a system prompt and a message of varied
length, answered with a queue's name; labelled ones from shared/data where they lie beside the
repository, made up ones otherwise. Plain is what TRL's documentation shows: SFTTrainer on prompt
and completion with SFTConfig's defaults, the model loaded by its name, and the same LoRA
configuration, learning rate, epochs and rows a step. Ours is `train.trainer.Trainer` as `train.sft`
runs it. They take turns, a few steps at a time, so that both see the same machine; the loss on the
same held-out rows is computed by one function for both. Tokens are those of rows, padding not
counted, and time is that between the first step's begin and the last one's end.

One training says little about the loss: with another seed, which decides the order of the rows and
the adapter's start, it differs by a third. Both train with each of `--seeds` seeds; the interval of
the difference is Student's over their pairs.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import resource
import statistics
import time
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import ROOT, embedded_model

DATA = ROOT.parent / "shared/data/banking77_train.csv"
RANK, RATE, ROWS = 16, 1e-3, 8
_SYSTEM = "You sort messages to a bank. Answer with one queue name only."


class Side(NamedTuple):
    """What one of the two came to.

    Attributes:
        heldout_loss: mean over the held-out rows, nats a token.
        peak_gb: most memory of its process until the end of training, GB.
        tokens: of its rows, all epochs.
        products: parameters of the layers' products.
        tflops: that a bfloat16 product reaches here, 10¹² operations a second.
    """

    tokens_per_second: float
    heldout_loss: float
    peak_gb: float
    tokens: int
    products: int
    tflops: float


def messages(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Messages and their queue, of ten queues, shuffled."""
    draw = random.Random(seed)
    if DATA.exists():
        with DATA.open(encoding="utf-8", newline="") as file:
            found = [(row["text"], row["category"]) for row in csv.DictReader(file)]
        queues = sorted({queue for _, queue in found})[:10]
        found = [one for one in found if one[1] in queues]
    else:
        words = ["card", "payment", "transfer", "refund", "account", "fee", "cash", "limit"]
        queues = [f"{a}_{b}" for a in words[:5] for b in words[5:7]]
        found = []
        for _ in range(count):
            queue = draw.choice(queues)
            size = max(4, int(draw.lognormvariate(2.6, 0.6)))
            text = " ".join(draw.choice([*words, *queue.split("_") * 4]) for _ in range(size))
            found.append((text, queue))
    draw.shuffle(found)
    return found[:count]


def conversations(count: int) -> list[dict[str, Any]]:
    """Rows as TRL's documentation has them: a prompt and a completion, of messages."""
    return [
        {
            "prompt": [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": text},
            ],
            "completion": [{"role": "assistant", "content": queue.replace("_", " ")}],
        }
        for text, queue in messages(count)
    ]


def tokenized(rows: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, list[int]]]:
    """The same rows as ids and labels; the whole text's ids, with loss behind the prompt's."""
    found = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"])
        prompt, whole = (
            ids["input_ids"] if hasattr(ids, "keys") else ids for ids in (prompt, whole)
        )
        found.append({"input_ids": whole, "labels": [-100] * len(prompt) + whole[len(prompt) :]})
    return found


def timer(pipe: Connection, turn: int, steps: int) -> Any:
    """A callback that waits for its turn each `turn` steps, and counts the seconds of its steps."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        seconds, began = 0.0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % turn == 0:
                pipe.send("waits")
                pipe.recv()
                self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % turn == 0 or state.global_step == steps:
                self.seconds += time.perf_counter() - self.began

    return Timer()


def lora() -> Any:
    """The same adapter for both."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
    )


def plain(rows: list[dict[str, Any]], epochs: float, seed: int, out: str) -> Any:
    """What TRL's documentation shows, with the same adapter, rate, epochs and rows a step."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=str(embedded_model()),
        args=SFTConfig(
            output_dir=out, per_device_train_batch_size=ROWS, num_train_epochs=epochs,
            learning_rate=RATE, save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=True, seed=seed,
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=lora(),
    )  # fmt: skip


def ours(rows: list[dict[str, list[int]]], epochs: float, seed: int, out: str) -> Any:
    """As `train.sft` sets it up."""
    import torch
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig

    from train import order
    from train.fast import setup
    from train.fast.memory import MOST_TOKENS
    from train.fast.passes import Cut
    from train.trainer import Trainer

    folder = embedded_model()
    sizes = [len(row["input_ids"]) for row in rows]
    plan = order.plan(sizes, epochs=epochs, step_rows=ROWS, seed=seed, alike=False)
    attention = setup.implementation(AutoConfig.from_pretrained(folder), "auto")
    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation=attention
        ),
        args=SFTConfig(
            output_dir=out, per_device_train_batch_size=ROWS, learning_rate=RATE,
            max_steps=-(-len(plan) // ROWS), save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
            logging_steps=1, max_length=None, train_sampling_strategy="sequential", seed=seed,
        ),
        train_dataset=Dataset.from_list(rows).select(plan),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora(),
        cut=Cut(MOST_TOKENS["cpu"]),
        step_rows=ROWS,
    )  # fmt: skip


def heldout_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Mean loss on the answers, nats a token, a row at a time in float32."""
    import torch

    model = model.eval().float()
    losses = []
    for row in rows:
        labels = torch.tensor(row["labels"][1:])
        at = (labels != -100).nonzero().flatten()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]]), logits_to_keep=at).logits[0]
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels[at])))
    return statistics.fmean(losses)


def peak_tflops() -> float:
    """What this machine's matrix product reaches in bfloat16, 10¹² operations a second."""
    import torch

    left, right = (torch.randn(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(8):
        began = time.perf_counter()
        left @ right
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e12)
    return best


def side(
    pipe: Connection, which: str, count: int, epochs: float, held: int, turn: int, seed: int
) -> None:
    """One of the two, in a process of its own: sends a `Side` in the end."""
    import torch
    from transformers import AutoTokenizer

    from train import base
    from train.load import quiet

    quiet()
    base.use_physical_cores()
    chats = conversations(count + held)
    rows = tokenized(chats, AutoTokenizer.from_pretrained(embedded_model()))
    steps = -(-round(count * epochs) // ROWS)
    torch.manual_seed(seed)  # of the adapter's start
    with TemporaryDirectory() as out:
        if which == "ours":
            trainer = ours(rows[:count], epochs, seed, out)
        else:
            trainer = plain(chats[:count], epochs, seed, out)
        watch = timer(pipe, turn, steps)
        trainer.add_callback(watch)
        trainer.train()
    assert trainer.state.global_step == steps
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send("waits")
    pipe.recv()
    loss = heldout_loss(trainer.model, rows[count:])
    tokens = round(epochs * sum(len(row["input_ids"]) for row in rows[:count]))
    products = sum(
        p.numel()
        for name, p in trainer.model.named_parameters()
        if "lora_" not in name and p.dim() == 2 and "embed" not in name and "lm_head" not in name
    )
    pipe.send(Side(tokens / watch.seconds, loss, most / 1e9, tokens, products, peak_tflops()))


def both(count: int, epochs: float, held: int, seed: int) -> tuple[Side, Side]:
    """Ours and plain, trained in turns."""
    context = multiprocessing.get_context("spawn")
    turn = max(1, round(count * epochs) // ROWS // 6)
    pipes, processes = [], []
    for which in ("ours", "plain"):
        here, there = context.Pipe()
        given = (there, which, count, epochs, held, turn, seed)
        process = context.Process(target=side, args=given)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    found: dict[int, Side] = {}
    # One at a time: whoever is told to go on runs until it says that it waits again.
    for pipe in pipes:
        pipe.recv()
    while len(found) < len(pipes):
        for number, pipe in enumerate(pipes):
            if number not in found:
                pipe.send("go")
                answer = pipe.recv()
                if isinstance(answer, Side):
                    found[number] = answer
    for process in processes:
        process.join()
    return found[0], found[1]


def measure(count: int, epochs: float, held: int, seeds: int) -> dict[str, Any]:
    """Train both with each seed; the flat numbers."""
    pairs = []
    for seed in range(1, seeds + 1):
        pairs.append(both(count, epochs, held, seed))
        one, other = pairs[-1]
        print(
            f"seed {seed} of {seeds}: {one.tokens_per_second:.0f} and "
            f"{other.tokens_per_second:.0f} tokens/s, loss {one.heldout_loss:.4f} and "
            f"{other.heldout_loss:.4f}",
            flush=True,
        )
    ours_, plains = [one for one, _ in pairs], [other for _, other in pairs]
    speeds = [[one.tokens_per_second for one in all_] for all_ in (ours_, plains)]
    losses = [[one.heldout_loss for one in all_] for all_ in (ours_, plains)]
    low, high = interval([a - b for a, b in zip(*losses, strict=True)])
    middle = statistics.median(speeds[0])
    return {
        "tokens_per_second": round(middle, 1),
        "tokens_per_second_plain": round(statistics.median(speeds[1]), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(*speeds, strict=True)), 3),
        "heldout_loss": round(statistics.fmean(losses[0]), 4),
        "heldout_loss_plain": round(statistics.fmean(losses[1]), 4),
        "heldout_losses": [round(loss, 4) for loss in losses[0]],
        "heldout_losses_plain": [round(loss, 4) for loss in losses[1]],
        "heldout_difference_low": low,
        "heldout_difference_high": high,
        "mfu": round(
            statistics.median(
                4 * one.products * one.tokens_per_second / 1e12 / one.tflops for one in ours_
            ),
            4,
        ),
        "peak_gb": round(max(one.peak_gb for one in ours_), 2),
        "peak_gb_plain": round(max(one.peak_gb for one in plains), 2),
        "rows": count,
        "seeds": seeds,
        "tokens": ours_[0].tokens,
        "peak_tflops": round(max(one.tflops for one in ours_), 2),
    }


def interval(differences: list[float]) -> tuple[float, float] | tuple[None, None]:
    """Student's 95 % interval of the mean; none of a single one."""
    from scipy.stats import t

    if len(differences) < 2:
        return None, None
    half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences)
    half /= len(differences) ** 0.5
    middle = statistics.fmean(differences)
    return round(middle - half, 4), round(middle + half, 4)


def main() -> None:
    """The command line."""
    from train.load import set_openmp_waiting

    command = parser("benchmarks.train", __doc__)
    command.add_argument("--rows", type=int, default=160, help="that are trained on")
    command.add_argument("--heldout", type=int, default=150, help="rows for the held-out loss")
    command.add_argument("--epochs", type=float, default=2, help="passes over the rows")
    command.add_argument("--seeds", type=int, default=5, help="how often both are trained")
    given = command.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    set_openmp_waiting()
    numbers = measure(given.rows, given.epochs, given.heldout, given.seeds)

    def each(key: str) -> str:
        return ", ".join(f"{loss:.3f}" for loss in numbers[key])

    spreads: dict[str, tuple[object, object]] = {
        "mean": (numbers["heldout_loss"], numbers["heldout_loss_plain"]),
        "each seed": (each("heldout_losses"), each("heldout_losses_plain")),
    }
    if given.seeds > 1:
        low, high = numbers["heldout_difference_low"], numbers["heldout_difference_high"]
        spreads["difference, 95 % interval"] = (f"{low:+.4f} to {high:+.4f}", "")
    table = markdown(
        ("", "ours", "plain SFTTrainer"),
        [
            ("tokens/s", numbers["tokens_per_second"], numbers["tokens_per_second_plain"]),
            *((f"loss on held-out rows, {name}", *pair) for name, pair in spreads.items()),
            ("ratio of tokens/s", numbers["ratio"], ""),
            ("MFU, 4N a token", f"{numbers['mfu']:.1%}", ""),
            ("most memory of the process, GB", numbers["peak_gb"], numbers["peak_gb_plain"]),
        ],
    )
    finish(
        given,
        name="train",
        title="Training on the CPU",
        numbers=numbers,
        table=table,
        notes=f"{given.rows} rows, {given.epochs:g} epochs, {numbers['tokens']} tokens, "
        f"{ROWS} rows a step, LoRA r={RANK} on all linear layers, in turns, {given.seeds} seeds "
        f"({given.heldout} held-out rows). MFU is against the "
        f"{numbers['peak_tflops']} TFLOP/s that a bfloat16 product of 2048 rows reaches here.",
        command="python -m benchmarks.train",
    )


if __name__ == "__main__":
    main()
