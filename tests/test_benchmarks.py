"""The benchmarks' own arithmetic and bookkeeping; they themselves run by hand."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import MakeSettings
from tiny import embedded_model

from benchmarks import capture, curate, report, swap, train, train_gpu
from benchmarks.adapters import RANK, publish_random_adapter
from benchmarks.load import Load
from ledger.fingerprint import base_fingerprint
from ledger.registry import WEIGHTS, Registry


def loads(p50: float, rate: float) -> capture.Round:
    alone, together = Load(1.0, p50, p50 + 1, 10, 0), Load(rate, 9.0, 9.0, 10, 0)
    return capture.Round(alone, alone, together)


def test_servers_are_compared_within_a_round() -> None:
    # The machine is twice as slow in the second round; the comparison does not see it.
    found = {
        "bare": [loads(5.0, 200.0), loads(10.0, 100.0), loads(5.0, 200.0)],
        "plugin": [loads(5.4, 190.0), loads(10.4, 95.0), loads(5.4, 200.0)],
    }
    numbers = capture.compare(found)
    assert numbers["throughput_ratio_plugin"] == 0.95
    assert numbers["throughput_ratio_plugin_highest"] == 1.0
    assert numbers["added_p50_ms_plugin"] == 0.4
    assert numbers["added_p50_ms_one_token_plugin"] == 0.4
    assert numbers["p50_ms_bare"] == 5.0
    assert numbers["throughput_ratio_litellm"] is None
    assert numbers["added_p50_ms_litellm"] is None
    table = capture.table_of(numbers, 32)
    assert "vLLM with the plugin" in table
    assert "LiteLLM" not in table


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.99, 10), (1.0, 10), (0.1, 1)])
def test_percentiles(share: float, expected: float) -> None:
    assert swap.percentile([float(n) for n in range(10, 0, -1)], share) == expected


def swapper(live: list[str]) -> swap.Swapper:
    # Only what it has noted is asked for here; no ledger and no server.
    made = swap.Swapper.__new__(swap.Swapper)
    threading.Thread.__init__(made)
    made.live = live
    return made


def test_an_answer_is_held_against_what_was_live_while_it_was_under_way() -> None:
    notes = swapper(["s@v1", "s@v2", "s@v1"])
    assert notes.allowed(swap.Answered(0, None, 0, 0)) == {"s@v1"}
    assert notes.allowed(swap.Answered(0, None, 0, 1)) == {"s@v1", "s@v2"}
    assert notes.allowed(swap.Answered(0, None, 1, 1)) == {"s@v2"}


def test_an_answer_is_mixed_unless_the_one_version_it_names_says_the_same_alone() -> None:
    alone = {"s@v1": ["one", "two"], "s@v2": ["eins", "zwei"]}

    def mixed(versions: set[str], text: str) -> bool:
        return swap.is_mixed(swap.Answered(1, swap.Answer(frozenset(versions), text), 0, 0), alone)

    assert not mixed({"s@v1"}, "two")
    assert mixed({"s@v2"}, "two")
    assert mixed({"s@v1"}, "one")
    assert mixed({"s@v1", "s@v2"}, "two")
    assert mixed({"base"}, "two")


def test_a_section_of_the_results_is_replaced_and_the_others_stay() -> None:
    text = report.with_section("# Results\n", "a", "first\n")
    text = report.with_section(text, "b", "other\n")
    again = report.with_section(text, "a", r"second \1" + "\n")
    assert "first" not in again
    assert again.index(r"second \1") < again.index("other")
    assert again.count("<!-- a -->") == 1


def test_a_section_says_where_it_was_measured_and_how() -> None:
    table = report.markdown(("", "measured"), [("requests", 12)])
    made = report.section("Title", table, "Notes.", "python -m benchmarks.title")
    assert "| requests | 12       |" in made
    assert "python -m benchmarks.title" in made
    assert "cores of" in made
    assert "commit" in made


def test_random_adapters_are_servable_versions_that_depend_on_their_seed(
    model: Path, make_settings: MakeSettings
) -> None:
    from safetensors.numpy import load_file

    settings = make_settings(model={"name": "tiny", "path": str(model)})
    one, two, same = (
        publish_random_adapter(settings, "support", model, seed) for seed in (1, 2, 1)
    )
    assert [v.name for v in (one, two, same)] == ["support@v1", "support@v2", "support@v3"]
    Registry(settings.registry).servable(
        "support", 1, fingerprint=base_fingerprint(model), max_rank=RANK
    )
    weights = [(v.path / WEIGHTS).read_bytes() for v in (one, two, same)]
    assert weights[0] == weights[2] != weights[1]
    names = load_file(one.path / WEIGHTS)
    assert len(names) == 2 * 7 * 2  # A and B of seven modules in two layers
    assert all(abs(array).sum() > 0 for array in names.values())


def test_training_rows_are_the_same_for_both_and_carry_the_answer_alone() -> None:
    from transformers import AutoTokenizer

    chats = train.conversations(12)
    assert chats == train.conversations(12)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    for chat, row in zip(chats, train.tokenized(chats, tokenizer), strict=True):
        said = [token for token in row["labels"] if token != -100]
        assert len(row["labels"]) == len(row["input_ids"])
        assert tokenizer.decode(said).startswith(chat["completion"][0]["content"])


@pytest.mark.filterwarnings("default")  # the libraries' own, under training
def test_the_gpu_benchmark_trains_a_tiny_shape_and_names_what_breaks() -> None:
    _, ours, _ = train_gpu.variants(tiny=True)
    until = time.perf_counter() + 120
    found = train_gpu.measure(ours, "tiny", "cpu", until, profile=False)
    assert found.error == ""
    assert found.tokens_per_second > 0
    broken = train_gpu.measure(ours._replace(dtype="no_such"), "tiny", "cpu", until, profile=False)
    assert "no_such" in broken.error
    numbers = train_gpu.numbers_of([found, broken], (6_530_000_000, 7_620_000_000), 1.0)
    assert numbers["tokens_per_second"] == found.tokens_per_second
    row = train_gpu.row_of(broken, (1, 1))
    assert "no_such" in str(row[2])
    fast = found._replace(tokens_per_second=16_281.0)
    assert train_gpu.numbers_of([fast], (6_530_000_000, 7_620_000_000), 1.0)["mfu"] == 0.43


def test_the_benchmark_of_curation_builds_twice_and_opens_the_page(tmp_path: Path) -> None:
    numbers = curate.measure(tmp_path, 2000, 20)
    assert (numbers["rows"], numbers["corrections"]) == (2000, 40)
    assert 30 <= numbers["pairs"] <= 40
    assert 15 <= numbers["incremental_pairs"] <= 20
    assert numbers["queue_rows"] > 30
    for name in ("build_seconds", "incremental_seconds", "peak_gb", "queue_page_ms"):
        assert numbers[name] > 0, name
    assert "queue page, p50, ms" in curate.table_of(numbers)
