"""How fast byte-pair training is, beside Hugging Face's `tokenizers` and our own plain loop, in one run.

python -m scripts.lab.bench_tokenizer --data text.txt
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from scripts.support.command_line import Parser, run, whole
from scripts.support.terminal import table

CHARACTERS, VOCAB_SIZE, PAIRS, FEW = 1_000_000, 768, 3, 24


def train_with_tokenizers(text: str, vocab_size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    peer = Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # GPT-2's split, as ours
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    peer.train_from_iterator(text.splitlines(keepends=True), trainer)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def tokenizer_rows(text: str, vocab_size: int = VOCAB_SIZE, pairs: int = PAIRS) -> list[dict]:
    """Characters per second of training on a text: ours and each peer's, and the median ratio of pairs timed in turns.

    The plain loop is timed for FEW merges and for twice as many; the difference, a merge's cost, stands for all the
    others. Merges get somewhat cheaper as chunks get shorter, so the plain loop's time is estimated from above.
    """
    from minigpt import Tokenizer
    from plain_or_fast import plain

    merges = vocab_size - 256
    train = lambda merges: Tokenizer.train([text], 256 + merges, special_tokens=[])

    def plainly() -> float:
        with plain():
            few, more = (seconds(lambda n=n: train(n)) for n in (FEW, 2 * FEW))
        return few + (more - few) / FEW * (merges - FEW)

    rows = []
    peers = {
        "tokenizers": lambda: seconds(lambda: train_with_tokenizers(text, vocab_size)),
        f"our plain loop, from {2 * FEW} of {merges} merges": plainly,
    }
    for name, peer in peers.items():
        timed = [(seconds(lambda: train(merges)), peer()) for _ in range(pairs if name == "tokenizers" else 1)]
        ours, theirs = (len(text) / statistics.median(column) for column in zip(*timed))
        ratio = statistics.median(b / a for a, b in timed)
        what = f"BPE training, {len(text):,} characters, {merges} merges"
        rows.append({"what": what, "peer_name": name, "ours": ours, "peer": theirs, "ratio": ratio})
    return rows


def main() -> None:
    parser = Parser(__doc__, prog="scripts.lab.bench_tokenizer")
    parser.add_argument("--data", type=Path, help="a text file (default: the toy world's text)")
    parser.add_argument("--vocab-size", type=whole(259, 2**22), default=VOCAB_SIZE, help="(default: %(default)s)")
    args = parser.parse_args()
    if args.data:
        from minigpt.files.text_files import read_corpus

        text = "\n".join(piece.text for piece in read_corpus([str(args.data)]))
    else:
        from scripts import toyworld

        text = "\n".join(toyworld.build(0).documents)
    rows = tokenizer_rows(text[:CHARACTERS], args.vocab_size)
    print(f"  {rows[0]['what']}")
    table(
        ["characters/s", "ours", "peer", "ratio"],
        [[r["peer_name"], f"{r['ours']:,.0f}", f"{r['peer']:,.0f}", r["ratio"]] for r in rows],
    )


if __name__ == "__main__":
    run(main)
