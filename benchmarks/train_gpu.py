"""How fast an adapter of a 7B model trains on this GPU, against plain SFTTrainer. One command, one
table, under 8 minutes.

    python -m benchmarks.train_gpu [--json FILE] [--shape qwen2.5-7b|qwen3-8b]

Weights are random, in the shape's size; rows are of varied length, a quarter of each is answer.
What is timed is transformers' training loop with `train.trainer.Trainer`, as `train.sft` runs it:
data, forward, backward, clipping, AdamW, logging. Tokens are those of rows, padding not counted.

MFU is counted at 4N operations a token (the base is frozen, so its weights get no gradient) against
989 TFLOP/s, the dense bfloat16 peak of an H100 or H200 SXM. N is once the parameters without
embeddings and head, and once all parameters, as published figures mostly count.

A variant that breaks is a row of the table, with its error. With --tiny it runs on the CPU.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from tempfile import mkdtemp
from typing import Any, NamedTuple

from benchmarks.report import finish, markdown, parser
from benchmarks.train_shapes import SHAPES, build, parameters, rows

PEAK_TFLOPS = 989.0
RANK = 16
STEP_ROWS = 32
# Seconds that a variant is measured for, after its warm-up, and steps at most.
_MEASURED, _STEPS = 12.0, 12
# Seconds that a variant needs at all, warm-up and loading included: below it is not begun.
_LEAST = {"compile": 100.0, "plain": 30.0, "other": 25.0}


class Variant(NamedTuple):
    """One way to train. `ours` is `train.trainer.Trainer`, otherwise plain SFTTrainer."""

    name: str
    ours: bool = True
    kernels: str = "none"
    lora: str = "auto"
    tokens: int = 8192
    flash: bool = True
    dtype: str = "bfloat16"

    @property
    def least(self) -> float:
        """Seconds below which it is not begun."""
        return _LEAST["compile" if self.kernels == "compile" else "other" if self.ours else "plain"]


class Found(NamedTuple):
    """What a variant came to; `error` says why where it broke. Memory in GB, rates in tokens/s."""

    variant: Variant
    tokens_per_second: float = 0.0
    peak_gb: float = 0.0
    estimated_gb: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    error: str = ""


def variants(tiny: bool) -> list[Variant]:
    """All of them, what matters most first."""
    if tiny:
        return [
            Variant("plain SFTTrainer, float32", ours=False, dtype="float32"),
            Variant("ours", tokens=512, dtype="float32"),
            Variant("ours, PEFT's layers", tokens=512, lora="peft", dtype="float32"),
        ]
    return [
        Variant("plain SFTTrainer, bfloat16 weights", ours=False),
        Variant("ours, Liger", kernels="liger"),
        Variant("ours, compiled", kernels="compile"),
        Variant("ours", tokens=8192),
        Variant("ours, Liger", kernels="liger", tokens=12288),
        Variant("ours, Liger", kernels="liger", tokens=4096),
        Variant("plain SFTTrainer, float32 as a name loads", ours=False, dtype="float32"),
        Variant("ours, Liger, PEFT's layers", kernels="liger", lora="peft"),
        Variant("ours, compiled, own LoRA node", kernels="compile", lora="node"),
        Variant("ours, Liger, no FlashAttention", kernels="liger", flash=False),
        Variant("ours, compiled", kernels="compile", tokens=4096),
    ]


def tokenizer(vocabulary: int) -> Any:
    """One that trainers ask for and nobody uses: rows come as ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(vocabulary)}
    made = Tokenizer(WordLevel(words, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="t0", eos_token="t1")


def trainer_of(variant: Variant, shape: str, device: str, dataset: Any, steps: int) -> Any:
    """A trainer as `train.sft` makes it, or as a script from TRL's documentation does."""
    import torch
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from train.fast import attention
    from train.fast.passes import Cut
    from train.trainer import Trainer

    attention.register()
    model = build(
        shape,
        device=device,
        dtype=getattr(torch, variant.dtype),
        attention=attention.NAME if variant.ours else "sdpa",
    )
    shared = {
        "output_dir": mkdtemp(prefix="train-gpu-"),
        "use_cpu": device == "cpu",
        "max_steps": steps,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_length": None,  # nothing is cut, for either
        "learning_rate": 1e-4,
    }
    adapter = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
    )
    given = {
        "model": model,
        "train_dataset": dataset,
        "processing_class": tokenizer(64),
        "peft_config": adapter,
    }
    if not variant.ours:
        given["args"] = SFTConfig(**shared, gradient_accumulation_steps=STEP_ROWS // 8)
        given["processing_class"] = tokenizer(SHAPES[shape]["vocab_size"])
        return SFTTrainer(**given)
    given["args"] = SFTConfig(
        **shared, bf16=False, gradient_checkpointing=False, logging_steps=1,
        per_device_train_batch_size=STEP_ROWS, train_sampling_strategy="sequential",
    )  # fmt: skip
    multiple = variant.tokens if variant.kernels == "compile" else 64
    return Trainer(
        **given, cut=Cut(variant.tokens, multiple=multiple), step_rows=STEP_ROWS,
        kernels=variant.kernels, lora=variant.lora,
    )  # fmt: skip


def timer(sizes: list[int], device: str, warm: int, until: float, profile: bool) -> Any:
    """A callback that times whole steps after `warm` of them, and ends the run in time."""
    import torch
    from transformers import TrainerCallback

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    class Timer(TrainerCallback):
        tokens, steps, seconds, began, profiler = 0, 0, 0.0, 0.0, None

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            at = now()
            step = state.global_step
            if step == warm:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                self.began = at
            elif step > warm and self.profiler is None:
                self.steps, self.seconds = step - warm, at - self.began
                self.tokens += sum(sizes[(step - 1) * STEP_ROWS : step * STEP_ROWS])
            over = self.steps >= _STEPS or self.seconds > _MEASURED or at > until
            if self.profiler is not None:
                self.profiler.stop()
                table = self.profiler.key_averages().table(
                    sort_by="self_cuda_time_total", row_limit=22, max_name_column_width=70
                )
                print("\n".join(line[:72] + line[-90:] for line in table.splitlines()))
                control.should_training_stop = True
            elif over and step > warm:
                if profile and device == "cuda" and at + 15 < until:
                    self.profiler = torch.profiler.profile()
                    self.profiler.start()
                else:
                    control.should_training_stop = True

    return Timer()


def measure(variant: Variant, shape: str, device: str, until: float, profile: bool) -> Found:
    """Train with a variant until its time is up."""
    import torch
    from datasets import Dataset

    from train.fast import attention, memory

    tiny = shape == "tiny"
    steps = 4 if tiny else _STEPS + 6
    longest, vocabulary = 256 if tiny else 4096, SHAPES[shape]["vocab_size"]
    made = rows(steps * STEP_ROWS, longest=longest, vocabulary=vocabulary)
    sizes = [len(row["input_ids"]) for row in made]
    dataset = Dataset.from_list(made)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    flash = attention._flash
    if not variant.flash:
        attention._flash = None
    began = time.perf_counter()
    try:
        trainer = trainer_of(variant, shape, device, dataset, steps)
        watch = timer(sizes, device, 1 if tiny or not variant.ours else 3, until, profile)
        trainer.add_callback(watch)
        config = trainer.model.config
        trainer.train()
        about = memory.estimate(
            config, dtype=variant.dtype, rank=RANK, longest=longest, device=device,
            kernels=variant.kernels,
        ).peak(largest_pass(sizes, variant.tokens))  # fmt: skip
        return Found(
            variant,
            tokens_per_second=round(watch.tokens / watch.seconds, 1) if watch.seconds else 0.0,
            peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 1) if device == "cuda" else 0.0,
            estimated_gb=round(about / 1e9, 1) if variant.ours else 0.0,
            steps=watch.steps,
            seconds=round(time.perf_counter() - began, 1),
            error="" if watch.seconds else "no step was finished in time",
        )
    except Exception as error:
        first = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        return Found(variant, seconds=round(time.perf_counter() - began, 1), error=first[:160])
    finally:
        attention._flash = flash


def largest_pass(sizes: list[int], tokens: int) -> int:
    """Tokens of the largest pass of a run."""
    from train.fast.passes import Cut, cut

    steps = [sizes[start : start + STEP_ROWS] for start in range(0, len(sizes), STEP_ROWS)]
    return max(
        sum(step[i] for i in group)
        for step in steps
        for passes in cut(step, Cut(tokens))
        for group in passes
    )


def ceiling(shape: str, device: str, tokens: int) -> float:
    """Tokens/s if a step were nothing but the base's own products, forward and backward."""
    import torch

    from train.fast.memory import linear_shapes

    config = build_config(shape)
    x: dict[int, Any] = {}
    total = 0.0
    for inner, outer in linear_shapes(config):
        weight = torch.randn(outer, inner, device=device, dtype=torch.bfloat16)
        x[inner] = x.get(inner, torch.randn(tokens, inner, device=device, dtype=torch.bfloat16))
        for repeat in range(2):
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(5):
                y = x[inner] @ weight.t()
                y @ weight
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                total += (time.perf_counter() - began) / 5
    return tokens / (total * config.num_hidden_layers)


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError("the time for everything is up")


def build_config(shape: str) -> Any:
    """The configuration of a shape."""
    import transformers

    options = dict(SHAPES[shape])
    return getattr(transformers, f"{options.pop('kind')}Config")(**options)


def restored(model_kind: str) -> Callable[[], None]:
    """A function that takes back what Liger changes for a whole process: classes and functions."""
    import importlib

    name = model_kind.lower()
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    before = dict(vars(module))

    def restore() -> None:
        vars(module).update(before)

    return restore


def clear(device: str) -> None:
    """Give memory and compiled code of a variant back."""
    import torch

    gc.collect()
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


def row_of(found: Found, sizes: tuple[int, int]) -> list[object]:
    """A row of the table."""
    rate = found.tokens_per_second
    mfu = [f"{4 * n * rate / PEAK_TFLOPS / 1e12:.1%}" if rate else "" for n in sizes]
    tokens = found.variant.tokens if found.variant.ours else "8 rows"
    memory = f"{found.peak_gb:g} ({found.estimated_gb:g})" if rate else ""
    return [found.variant.name, tokens, f"{rate:,.0f}" if rate else found.error, *mfu, memory]


def main() -> None:
    """The command line."""
    import torch

    from train.fast import attention

    command = parser("benchmarks.train_gpu", __doc__)
    command.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-7b")
    command.add_argument("--seconds", type=float, default=420, help="for everything")
    command.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU, as a test")
    command.add_argument("--profile", action="store_true", help="kernels of Liger and compiled")
    command.add_argument("--only", help="variants whose name has this")
    given = command.parse_args()
    began = time.perf_counter()
    # Passes differ in length: without it memory breaks into pieces. Read when CUDA starts.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, given.seconds)
    shape, device = ("tiny", "cpu") if given.tiny else (given.shape, "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no CUDA device here; --tiny runs on the CPU")
    attention.register()
    with torch.device("meta"):
        sizes = parameters(build_meta(shape))
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, {shape}: {sizes[0] / 1e9:.2f}B parameters without "
        f"embeddings and head, {sizes[1] / 1e9:.2f}B in all; {attention.on_cuda()}",
        flush=True,
    )
    top = 0.0
    if device == "cuda":
        top = ceiling(shape, device, 8192)
        print(f"the base's products alone: {top:,.0f} tokens/s", flush=True)
    restore = restored(SHAPES[shape]["kind"])
    found: list[Found] = []
    with suppress(TimeoutError):
        for variant in variants(given.tiny):
            if given.only and given.only not in variant.name:
                continue
            left = given.seconds - (time.perf_counter() - began)
            if left < variant.least and not given.tiny:
                found.append(Found(variant, error=f"not begun, {left:.0f} s were left"))
                continue
            until = time.perf_counter() + left - 5
            profile = given.profile and variant.tokens == 8192 and variant.kernels != "none"
            profile = profile and variant.lora == "auto" and variant.flash
            found.append(measure(variant, shape, device, until, profile))
            restore()
            clear(device)
            print(f"[{time.perf_counter() - began:.0f} s] {found[-1]}", flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    numbers = numbers_of(found, sizes, top)
    numbers.update(device=name, torch=torch.__version__, shape=shape)
    head = ("", "tokens a pass", "tokens/s", "MFU, 4N without ends", "MFU, 4N of all",
            "peak GB (estimated)")  # fmt: skip
    table = markdown(head, [row_of(one, sizes) for one in found])
    finish(
        given,
        name="train_gpu",
        title="Training on a GPU",
        numbers=numbers,
        table=table,
        notes=f"{name}, random weights in the shape of {shape}, LoRA r={RANK} on all linear "
        f"layers, {STEP_ROWS} rows a step. "
        f"The base's products alone would allow {top:,.0f} tokens/s.",
        command=f"make bench-gpu  # python -m benchmarks.train_gpu --shape {shape}",
    )


def build_meta(shape: str) -> Any:
    """The model of a shape without memory, to count its parameters."""
    import transformers

    return getattr(transformers, f"{SHAPES[shape]['kind']}ForCausalLM")(build_config(shape))


def numbers_of(found: list[Found], sizes: tuple[int, int], top: float) -> dict[str, Any]:
    """The flat numbers of a run; rates are 0 where nothing of a kind was measured."""
    best = max((one for one in found if one.variant.ours), key=lambda one: one.tokens_per_second)
    plain = max((one.tokens_per_second for one in found if not one.variant.ours), default=0.0)
    rate = best.tokens_per_second
    return {
        "tokens_per_second": rate,
        "tokens_per_second_plain": plain,
        "ratio": round(rate / plain, 3) if plain else 0.0,
        "mfu": round(4 * sizes[0] * rate / PEAK_TFLOPS / 1e12, 4),
        "mfu_all_parameters": round(4 * sizes[1] * rate / PEAK_TFLOPS / 1e12, 4),
        "peak_gb": best.peak_gb,
        "best": f"{best.variant.name}, {best.variant.tokens} tokens a pass",
        "tokens_per_second_products_alone": round(top, 1),
        "variants": [{**one._asdict(), "variant": one.variant._asdict()} for one in found],
    }


if __name__ == "__main__":
    main()
