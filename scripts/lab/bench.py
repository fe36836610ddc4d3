"""How fast, as ratios to what people use: same weights, same precision, in turns within one run.

python -m scripts.lab.bench --out runs/bench

With one thread the processor's time is taken, which other programs hardly disturb; with more, the clock's.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from scripts.lab.bench_tokenizer import CHARACTERS, tokenizer_rows
from scripts.support.command_line import Parser, file_name, run, whole
from scripts.support.run_directory import locked, refuse_other_results, write_json
from scripts.support.terminal import table, visible

PAIRS, PROMPT, NEW_TOKENS, TOP_P, WIDTH = 5, 16, 64, 0.9, 5
TOY_CASES = ["greedy, batch 1", "top-p, batch 1", "greedy, batch 8", "top-p, batch 8", "beam 5"]
LARGE_CASES = ["greedy, batch 1", "greedy, batch 8", "beam 5"]
CONTEXTS, STEPS = [128, 512, 2048, 8128], 16  # tokens read before the timed steps


def seconds(work: Callable[[], object]) -> float:
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    work()
    return clock() - started


def in_turns(ways: dict[str, Callable[[], object]], amount: int, pairs: int) -> dict:
    """Time several ways to do the same in turns, the first of them ours, after a warm-up.

    Returns each one's median rate, and for every other one the median ratio of its time to ours.
    """
    for work in ways.values():
        work()
    rounds = []
    for _ in range(pairs):
        timed = {}
        for name, work in ways.items():
            time.sleep(0.2)  # until the last one's threads have stopped waiting for work
            timed[name] = seconds(work)
        rounds.append(timed)

    ours, *peers = ways
    rates = {name: amount / statistics.median(timed[name] for timed in rounds) for name in ways}
    ratios = {peer: statistics.median(timed[peer] / timed[ours] for timed in rounds) for peer in peers}
    return {"rates": rates, "ratios": ratios}


def read_bandwidth() -> float:
    """Bytes per second at which this machine reads memory: summing an array that no cache holds."""
    import torch

    array = torch.ones(2**27)  # 512 MB
    return array.nbytes / min(seconds(array.sum) for _ in range(5))


def models(large: bool) -> Iterator[tuple[str, object, list]]:
    """Name, model and precisions of what is measured."""
    import torch

    from minigpt import GPT, GPTConfig, load
    from scripts.support.models import smollm

    torch.manual_seed(0)
    yield "4 layers x 128", GPT(GPTConfig.toy()), ["float32"]
    if large:
        half = ["bfloat16"] if torch.cpu._is_avx512_bf16_supported() else []
        yield "GPT-2 124M", GPT(GPTConfig.gpt2()), ["float32", *half]
        if smollm().exists():
            yield "SmolLM2 135M", load(smollm())[0], ["float32", *half]


def both(model, precision: str) -> tuple:
    """The model as both sides load it from one directory: ours, and that of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    from minigpt import load, save

    dtype = getattr(torch, precision)
    with tempfile.TemporaryDirectory() as directory:
        save(directory, model, None)
        ours, _ = load(directory, dtype)
        theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    theirs.generation_config.eos_token_id = None
    return ours, theirs


def ways_to_decode(ours, theirs, case: str, new_tokens: int, with_plain: bool) -> dict[str, Callable[[], object]]:
    """Our decoding, fast and plain, and that of transformers, from the same random prompts."""
    import torch

    from decoding import beam_search, generate
    from plain_or_fast import plain

    batch = 8 if "batch 8" in case else 1
    prompts = torch.randint(ours.vocab_size, (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    knobs = {"do_sample": "top-p" in case, "num_beams": WIDTH if "beam" in case else 1}
    if "top-p" in case:
        knobs |= {"top_p": TOP_P, "top_k": 0}

    def fast():
        if "beam" in case:
            return beam_search(ours, prompts[0], width=WIDTH, max_new_tokens=new_tokens)
        if "top-p" in case:
            return generate(ours, prompts, max_new_tokens=new_tokens, top_p=TOP_P, seed=0)
        return generate(ours, prompts, max_new_tokens=new_tokens, temperature=0)

    def plainly():
        with plain():
            return fast()

    def peer():
        mask = torch.ones_like(prompts)
        lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        return theirs.generate(prompts, attention_mask=mask, pad_token_id=0, **lengths, **knobs)

    return {"fast": fast, "transformers": peer} | ({"plain": plainly} if with_plain else {})


def decoding_rows(name: str, model, precision: str, bandwidth: float, pairs: int) -> list[dict]:
    """Tokens per second of each way to decode, and our share of the rate at which all weights can be read."""
    is_toy = model.config.d_model < 256
    new_tokens = NEW_TOKENS if is_toy else NEW_TOKENS // 4
    ours, theirs = both(model, precision)
    limit = bandwidth / sum(parameter.nbytes for parameter in ours.parameters())  # steps per second
    rows = []
    for case in TOY_CASES if is_toy else LARGE_CASES:
        batch = 8 if "batch 8" in case else 1
        ways = ways_to_decode(ours, theirs, case, new_tokens, with_plain=case == "greedy, batch 1")
        measured = in_turns(ways, batch * new_tokens, pairs)
        share = measured["rates"]["fast"] / batch / limit
        rows.append({"what": f"{name}, {precision}, {case}", **measured, "share_of_limit": share})
    return rows


def context_rows(model) -> list[dict]:
    """Seconds per token after so many tokens have been read: ours and transformers', the median of a few steps."""
    import torch

    ours, theirs = both(model, "float32")
    rows = []
    for context in CONTEXTS:
        ids = torch.randint(ours.vocab_size, (1, context), generator=torch.Generator().manual_seed(context))
        rows.append({"context": context, "ours": our_step(ours, ids), "peer": their_step(theirs, ids)})
    return rows


def our_step(model, ids) -> float:
    _, state = model.prefill(ids.tolist())
    work = partial(model.step, state, ids[0, -1:])  # the state grows in place
    return statistics.median(seconds(work) for _ in range(STEPS))


def their_step(model, ids) -> float:
    import torch

    with torch.inference_mode():
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        work = partial(model, ids[:, -1:], past_key_values=cache)
        return statistics.median(seconds(work) for _ in range(STEPS))


def show(rows: list[dict], contexts: list[dict]) -> None:
    shown = []
    for row in rows:
        rates, ratios = row["rates"], row["ratios"]
        plain = f"{rates['plain']:,.0f}" if "plain" in rates else ""
        speeds = [f"{rates['fast']:,.0f}", plain, f"{rates['transformers']:,.0f}"]
        shown.append([row["what"], *speeds, f"{ratios['transformers']:.2f}", f"{row['share_of_limit']:.2f}"])
    table(["decoding, tokens/s", "fast", "plain", "transformers", "ratio", "share of the limit"], shown)
    print("  ratio: fast to transformers; the limit: every token reads all weights once\n")
    if contexts:
        milliseconds = [[r["context"], f"{1000 * r['ours']:.1f}", f"{1000 * r['peer']:.1f}"] for r in contexts]
        table(["SmolLM2, fp32, ms per token after … tokens", "ours", "transformers"], milliseconds)
        print()


def main() -> None:
    parser = Parser(__doc__, prog="scripts.lab.bench")
    parser.add_argument("--out", type=file_name, default=Path("runs/bench"), help="(default: %(default)s)")
    parser.add_argument("--pairs", type=whole(), default=PAIRS, help="timed rounds per row (default: %(default)s)")
    parser.add_argument("--threads", type=whole(), help="of PyTorch; OPENBLAS_NUM_THREADS sets NumPy's")
    parser.add_argument("--small", action="store_true", help="leave out the models of GPT-2's size")
    args = parser.parse_args()
    refuse_other_results(args.out, "read_bandwidth")
    with locked(args.out):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Time everything, write the ratios down and draw them."""
    import torch
    from transformers.utils import logging

    from scripts import toyworld
    from scripts.support.plots import ratios_figure, save_figure

    logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    bandwidth, threads = read_bandwidth(), torch.get_num_threads()
    print(f"  {threads} threads, reading {bandwidth / 1e9:.0f} GB/s")

    # decoding
    rows, contexts = [], []
    for name, model, precisions in models(large=not args.small):
        for precision in precisions:
            pairs = args.pairs if name.startswith("4") else min(args.pairs, 3)
            rows += decoding_rows(name, model, precision, bandwidth, pairs)
        if name.startswith("SmolLM2"):
            contexts = context_rows(model)

    # byte-pair training
    text = "\n".join(toyworld.build(0).documents)[:CHARACTERS]
    merges = tokenizer_rows(text, pairs=args.pairs)

    # keep, then show
    machine, date = platform.processor() or platform.machine(), time.strftime("%Y-%m-%d")
    about = {"machine": machine, "threads": threads, "date": date, "read_bandwidth": bandwidth}
    write_json(args.out / "results.json", {**about, "decoding": rows, "contexts": contexts, "merges": merges})
    bars = [{"what": r["what"], "peer_name": "transformers", "ratio": r["ratios"]["transformers"]} for r in rows]
    title = f"{machine}, {threads} threads, {date}"
    save_figure(ratios_figure(bars + merges, title), args.out / "ratios.png")
    show(rows, contexts)
    speeds = [[r["peer_name"], f"{r['ours']:,.0f}", f"{r['peer']:,.0f}", r["ratio"]] for r in merges]
    table([merges[0]["what"] + ", characters/s", "ours", "peer", "ratio"], speeds)
    print(visible(f"  in {args.out}: results.json, ratios.png"))


if __name__ == "__main__":
    run(main)
