"""How fast, as ratios to what people use: same weights, same precision, in turns within one run.

python -m scripts.lab.bench --out runs/bench
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scripts.support.command_line import run, whole
from scripts.support.run_directory import write_json
from scripts.support.terminal import table

PAIRS, NEW_TOKENS = 5, 64


def in_turns(ours: Callable[[], object], peer: Callable[[], object], amount: int, pairs: int = PAIRS) -> dict:
    """Time two ways to do the same in turns, after a warm-up: each one's median rate, and the median ratio of pairs."""
    ours(), peer()
    seconds = {ours: [], peer: []}
    for _ in range(pairs):
        for work in (ours, peer):
            time.sleep(0.2)  # until the other side's threads have stopped waiting for work
            started = time.perf_counter()
            work()
            seconds[work].append(time.perf_counter() - started)
    ratio = statistics.median(theirs / mine for mine, theirs in zip(seconds[ours], seconds[peer]))
    rates = {name: amount / statistics.median(seconds[work]) for name, work in (("ours", ours), ("peer", peer))}
    return {**rates, "ratio": ratio}


def read_bandwidth() -> float:
    """Bytes a second at which this machine reads memory: summing an array that no cache holds."""
    import torch

    array, best = torch.ones(2**27), 0.0  # 512 MB
    for _ in range(5):
        started = time.perf_counter()
        array.sum()
        best = max(best, array.nbytes / (time.perf_counter() - started))
    return best


def decoding_rows(config, name: str, cases: list[str], bandwidth: float, pairs: int) -> list[dict]:
    """Tokens a second of our decoding and of transformers' generate, on one random model in both."""
    import torch
    from transformers import AutoModelForCausalLM

    from decoding import beam_search, generate
    from minigpt import GPT, load, save

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        save(directory, GPT(config), None)
        model, _ = load(directory)
        theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    theirs.generation_config.eos_token_id = None
    rows, limit = [], bandwidth / sum(p.nbytes for p in model.parameters())
    for case in cases:
        batch = 8 if "batch 8" in case else 1
        prompts = torch.randint(config.vocab_size, (batch, 16), generator=torch.Generator().manual_seed(1))
        if "beam" in case:
            ours = lambda p=prompts: beam_search(model, p[0].tolist(), width=5, max_new_tokens=NEW_TOKENS)
            knobs = {"num_beams": 5, "do_sample": False}
        elif "top-p" in case:
            ours = lambda p=prompts: generate(model, p.tolist(), max_new_tokens=NEW_TOKENS, top_p=0.9, seed=0)
            knobs = {"do_sample": True, "top_p": 0.9, "top_k": 0}
        else:
            ours = lambda p=prompts: generate(model, p.tolist(), max_new_tokens=NEW_TOKENS, temperature=0)
            knobs = {"do_sample": False}
        knobs |= {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "pad_token_id": 0}
        knobs["attention_mask"] = torch.ones_like(prompts)
        peer = lambda p=prompts, k=knobs: theirs.generate(p, **k)
        measured = in_turns(ours, peer, batch * NEW_TOKENS, pairs)
        share = measured["ours"] / batch / limit
        rows.append({"what": f"{name}, {case}", "peer_name": "transformers", **measured, "share_of_limit": share})
    return rows


def twin_row(pairs: int) -> dict:
    """Tokens per second of the NumPy twin's training steps beside PyTorch's in fp32, on one model."""
    import torch

    from minigpt import GPT, Batch, GPTConfig, TrainConfig, numpy_gpt, train

    torch.manual_seed(0)
    model = GPT(GPTConfig.toy())
    twin = numpy_gpt.NumpyGPT.from_torch(model)
    ids = torch.randint(model.vocab_size, (32, 57))
    batch, config = Batch(ids[:, :-1], ids[:, 1:]), TrainConfig(steps=5)

    def ours() -> None:
        list(numpy_gpt.train(twin, lambda step: batch, config))

    def peer() -> None:
        list(train(model, lambda step: batch, config))

    measured = in_turns(ours, peer, config.steps * batch.inputs.numel(), pairs)
    return {"what": "NumPy twin, training step, 32 x 56 tokens", "peer_name": "PyTorch", **measured}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts.lab.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="(default: %(default)s)")
    parser.add_argument("--pairs", type=whole(1), default=PAIRS, help="timed pairs a row (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="leave out the model of GPT-2's size")
    args = parser.parse_args()
    import torch
    from transformers.utils import logging

    from minigpt import GPTConfig
    from scripts import toyworld
    from scripts.lab.bench_tokenizer import CHARACTERS, tokenizer_rows
    from scripts.support.plots import ratios_figure

    logging.set_verbosity_error()
    args.out.mkdir(parents=True, exist_ok=True)
    bandwidth = read_bandwidth()
    greedy = ["greedy, batch 1", "greedy, batch 8"]
    rows = decoding_rows(
        GPTConfig.toy(),
        "4 layers x 128",
        [*greedy, "top-p, batch 1", "top-p, batch 8", "beam 5"],
        bandwidth,
        args.pairs,
    )
    if not args.small:
        rows += decoding_rows(GPTConfig.gpt2(), "GPT-2 124M", [*greedy, "beam 5"], bandwidth, min(args.pairs, 3))
    print(f"  {torch.get_num_threads()} threads, fp32, reading {bandwidth / 1e9:.0f} GB/s")
    table(
        ["decoding, tokens/s", "ours", "transformers", "ratio", "share of the limit"],
        [[r["what"], f"{r['ours']:,.0f}", f"{r['peer']:,.0f}", r["ratio"], r["share_of_limit"]] for r in rows],
    )
    print("  the limit: every token reads all weights once\n")
    twins = [twin_row(args.pairs)]
    table(
        ["4 layers x 128, tokens/s", "NumPy", "PyTorch", "ratio"],
        [[r["what"], f"{r['ours']:,.0f}", f"{r['peer']:,.0f}", r["ratio"]] for r in twins],
    )
    text = "\n".join(toyworld.build(0).documents)[:CHARACTERS]
    merges = tokenizer_rows(text, pairs=args.pairs)
    print()
    table(
        [merges[0]["what"] + ", characters/s", "ours", "peer", "ratio"],
        [[r["peer_name"], f"{r['ours']:,.0f}", f"{r['peer']:,.0f}", r["ratio"]] for r in merges],
    )
    machine, date = platform.processor() or platform.machine(), time.strftime("%Y-%m-%d")
    write_json(args.out / "results.json", {
        "machine": machine, "threads": torch.get_num_threads(), "date": date, "read_bandwidth": bandwidth,
        "rows": rows + twins + merges,
    })  # fmt: skip
    ratios_figure(rows + twins + merges, f"{machine}, {torch.get_num_threads()} threads, {date}").savefig(
        args.out / "ratios.png", dpi=110
    )
    print(f"  in {args.out}: results.json, ratios.png")


if __name__ == "__main__":
    run(main)
