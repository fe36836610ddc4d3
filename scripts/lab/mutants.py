"""Break decoding/ on purpose, one small fault at a time, and see whether its tests notice (make mutants).

Each fault is applied to a copy of the project. One that the tests let pass is a property that nobody has written down,
unless the change makes no difference: those say why. Exit status 1 if another survives, 2 if the list is stale.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # a fault that makes a loop endless counts as caught
TESTS = {  # the tests nearest to the fault come first
    "filters.py": ["filters", "slides", "generate", "oracles", "distributions", "beam", "invariance"],
    "generate.py": ["generate", "slides", "filters", "distributions", "invariance", "oracles", "beam"],
    "beam.py": ["beam", "slides", "invariance", "oracles"],
}
# A failing example needn't be made smaller here, which hypothesis would spend most of the time on.
NO_SHRINKING = """
from hypothesis import Phase
settings.register_profile("mutants", settings.get_profile("course"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutants")
"""


class Fault(NamedTuple):
    file: str
    old: str  # found exactly once in the file
    new: str
    breaks: str
    equivalent: str = ""  # why no test can notice


# fmt: off
FILTERS = [
    # temperature
    ("expect(t >= 0,", "expect(t > 0,", "temperature 0 is refused"),
    ("expect(t >= 0,", "expect(t == t,", "a negative temperature turns the order round"),
    ("    if t == 1:\n        return logits\n", "", "temperature 1 isn't exactly the identity"),
    ("logits.argmax(-1, keepdim=True), largest", "logits.argmin(-1, keepdim=True), largest",
     "temperature 0 takes the least probable token"),
    ("logits.argmax(-1, keepdim=True), largest",
     "logits.shape[-1] - 1 - logits.flip(-1).argmax(-1, keepdim=True), largest", "the highest of equal ids wins"),
    ("max(t, numbers.tiny)", "t", "a tiny temperature divides 0 by 0"),
    ("min(max(t, numbers.tiny), numbers.max)", "max(t, numbers.tiny)", "a huge one divides inf by inf"),
    ("(wide - largest) / t", "wide / t", "the largest isn't subtracted, so large logits overflow"),
    ("(wide - largest) / t", "(wide - largest) * t", "it sharpens where it should smooth"),
    ("wide = _wide(logits)\n    numbers", "wide = logits\n    numbers", "half precision all the way"),
    # top-k
    ("expect(isinstance(k, int) and k >= 1,", "expect(isinstance(k, int) and k >= 0,", "k = 0"),
    ("return logits if k >= logits.shape[-1] else _keep(logits, logits.topk(k)",
     "return _keep(logits, logits.topk(k)", "k > V crashes"),
    ("logits.topk(k).values[..., -1:], k)", "logits.topk(k).values[..., :1], k)", "the best, not the k-th"),
    ("_keep(logits, logits.topk(k).values[..., -1:], k)",
     "logits.masked_fill(logits < logits.topk(k).values[..., -1:], OUT)", "equals keep more than k"),
    ("_keep(logits, logits.topk(k).values[..., -1:], k)",
     "torch.full_like(logits, OUT).scatter(-1, logits.topk(k).indices, logits.topk(k).values)",
     "torch.topk's own choice among equals"),
    ("k >= logits.shape[-1] else", "k >= len(logits) else", "the wrong axis is taken for V"),
    # top-p
    ('expect(0 <= p <= 1, "top_p"', 'expect(0 < p <= 1, "top_p"', "p = 0 is refused"),
    ('expect(0 <= p <= 1, "top_p"', 'expect(0 <= p <= 2, "top_p"', "p > 1 passes"),
    ("    if p == 1:\n        return logits\n    ranked", "    ranked", "p = 1 drops the rarest tokens"),
    ("p - ROUNDING))", "p))", "nothing is forgiven to rounding"),
    ("p - ROUNDING))", "p + ROUNDING))", "forgiven the wrong way round"),
    ("p - ROUNDING))", "p - 1e-3))", "too much is forgiven"),
    ("p - ROUNDING))", "p - ROUNDING), right=True)", "one token too many at equality (18976)",
     "the target is p - ROUNDING, which no sum of probabilities meets but by chance"),
    ("rank + 1)  # top-k", "rank)  # top-k", "the largest set below p (llama.cpp PR 1953)"),
    ("rank + 1)  # top-k", "rank + 2)  # top-k", "one token too many of equals"),
    ("ranked.gather(-1, rank), rank + 1)", "ranked.gather(-1, rank + 1), rank + 2)", "one token too many"),
    ("ranked.gather(-1, rank), rank", "logits.gather(-1, rank), rank", "an unsorted gather"),
    ("ranked.double().softmax(-1).cumsum(-1)", "ranked.double().exp().cumsum(-1)", "the survivors aren't renormalised"),
    ("ranked.double().softmax(-1).cumsum(-1)", "ranked.double().softmax(0).cumsum(-1)", "the wrong axis sums to 1"),
    ("ranked.double().softmax(-1).cumsum(-1)", "ranked.softmax(-1).cumsum(-1)", "a float32 sum"),
    ("    return -turned\n", "    return -turned.flip(-1)\n", "the least probable first"),
    ("turned = -_wide(logits).detach()", "turned = -logits.detach().half()", "ranked in half precision"),
    # ties
    ("out = logits < worst", "out = logits <= worst", "the k-th is dropped"),
    ("if (extra > 0).any():", "if False:", "equals keep more than k"),
    ("if (extra > 0).any():", "if (extra > 0).all():", "equals are looked at in all rows or none"),
    ("equal.sum(-1, keepdim=True) - equal.cumsum(-1) < extra", "equal.cumsum(-1) <= extra",
     "the lowest of equal ids goes first"),
    ("equal.cumsum(-1) < extra", "equal.cumsum(-1) <= extra", "one of the equals too many goes"),
    # min-p
    ("- largest < lowest, OUT", "- largest <= lowest - ROUNDING, OUT", "min-p forgives twice"),
    ("math.log(p) - ROUNDING if p < 1", "math.log(p) + ROUNDING if p < 1", "an exact share is dropped"),
    ("math.log(p) - ROUNDING if p < 1 else 0.0", "math.log(p) - ROUNDING", "1 keeps near-maxima"),
    ("    if p == 0:\n        return logits\n", "", "min-p 0 takes the logarithm of 0"),
    ("logits.double() - largest < lowest", "logits.double() < lowest", "not relative to the largest"),
    # repetition penalty
    ("torch.where(wide > 0, wide / penalty, wide * penalty)", "wide / penalty", "a negative logit is raised"),
    ("torch.where(wide > 0, wide / penalty, wide * penalty)", "torch.where(wide < 0, wide / penalty, wide * penalty)",
     "the penalty is a reward"),
    ("torch.where(wide > 0, wide", "torch.where(wide >= 0, wide", ">= for >",
     "zero divided by the penalty is zero, and so is zero times the penalty"),
    ("torch.where(seen, _narrow(penalised, logits), logits)", "_narrow(penalised, logits)",
     "tokens that were never seen are punished"),
    ("expect(1 <= penalty < math.inf", "expect(0 < penalty < math.inf", "a penalty that rewards"),
    ("    penalty = min(penalty, torch.finfo(wide.dtype).max)  # 0 * inf is NaN\n", "",
     "a huge penalty times 0 is NaN"),
    # n-grams and bans
    ("start = len(ids) - (n - 1)", "start = len(ids) - n", "the n-grams are one too long"),
    ("for i in range(start) if", "for i in range(1, start) if", "the first n-gram is forgotten"),
    ("== ids[start:]]", "!= ids[start:]]", "everything else is forbidden"),
    ("ids[i + n - 1] for i", "ids[i] for i", "the n-gram's first token is forbidden, not its last"),
    ("logits = logits.clone(memory_format=torch.contiguous_format)", "logits = logits.contiguous()",
     "the caller's logits are written into"),
    ('expect(all(0 <= id < V for id in ids), "banned_ids"', 'expect(all(id < V for id in ids), "banned_ids"',
     "id -1 bans the last token"),
    ("return logits.index_fill(-1,", "return logits.index_fill(0,", "the wrong axis is banned"),
    # checks and precision
    ("if not math.isfinite(largest.sum()):", "if False:", "NaN and rows of -inf pass"),
    ("names[row] if names else row", "row", "the row is numbered among those still going"),
    ("logits.dtype == torch.float64 else logits.float()", "True else logits.float()", "half precision all the way"),
    ("changed.clamp(bounds.min, bounds.max)", "changed.clamp(max=bounds.max)",
     "a token that was possible becomes impossible"),
    (".masked_fill(logits == OUT, OUT)", "", "a token that was out comes back"),
    ('expect(len(histories) == rows, "number', 'expect(True, "number', "the wrong number of histories"),
]
GENERATE = [
    # the draw
    ("uniforms[:, None] * total, right=True)", "uniforms[:, None] * total)",
     "a uniform number of 0 draws a token of probability 0"),
    ("uniforms[:, None] * total, right=True)", "uniforms[:, None], right=True)",
     "the draw isn't scaled by the last cumulative sum",
     "the sum is 1 but for 1e-16: a draw comes out another one time in 1e16, and one beyond the last is clamped"),
    ("return torch.minimum(ids, last).squeeze(-1)", "return ids.squeeze(-1)",
     "a uniform number that is rounded to 1 draws beyond the last"),
    ("mass = logits.double().softmax(-1).cumsum(-1)", "mass = logits.softmax(-1).cumsum(-1).double()",
     "float32 sums"),
    ("last = torch.searchsorted(mass, total)", "last = torch.searchsorted(mass, total, right=True)",
     "the clamp ends after the last token"),
    # the loop
    ("if temperature == 0:\n            ids = filtered.argmax",
     "if temperature == 0:\n            ids = logits.argmax", "greedy ignores bans, n-grams and the penalty"),
    ("logprobs = logits.log_softmax(-1)", "logprobs = filtered.log_softmax(-1)",
     "log-probabilities after the filters"),
    ("generators[row].random() for row in rows", "generators[0].random() for row in rows",
     "a row's draws depend on its neighbours"),
    ("generators[row].random() for row in rows", "generators[i].random() for i in range(len(rows))",
     "after a row has ended the others draw from its generator"),
    ("[seed + row for row in range(rows)]", "[seed] * rows", "all rows draw alike"),
    ("return [None] * rows", "return [0] * rows", "without a seed all runs are alike"),
    ("seen[i].append(choices[i])", "seen[i] = [*seen[i], choices[i]]", "histories stay those of the prompt"),
    ('"eos" if choices[i] in end_ids else why_full(length', "why_full(length", "the end token ends nothing"),
    ('stops.append("eos" if choices[i] in end_ids else why_full(length, max_new_tokens, room[row]))',
     'stops.append(why_full(length, max_new_tokens, room[row]) or ("eos" if choices[i] in end_ids else None))',
     "an end token in the last place counts as length"),
    ("ids[keep], model.reorder(state, keep)", "ids[keep], model.reorder(state, keep.flip(0))",
     "the cache's rows are mixed up"),
    ("ids[keep], model.reorder(state, keep)", "ids[: len(left)], model.reorder(state, keep)",
     "the remaining rows are fed their neighbours' tokens"),
    ("rows, ids, state = [rows[i] for i in left]", "rows, ids, state = left", "rows are renumbered when one ends"),
    ("filters.check(logits, names=rows)", "pass", "logits that are no distribution pass"),
    ("logits = logits if logits.dtype == torch.float64 else logits.float()\n", "pass\n",
     "half-precision log-probabilities"),
    ("choices[i] = None\n", "pass\n", "a blocked row gets a token"),
    ('"context" if length == room', '"context" if length > room', "the window is run past"),
    ("window is None or len(prompt) < window", "window is None or len(prompt) <= window",
     "a prompt that fills the window passes"),
    ("min(max_new_tokens, window - len(prompt))", "min(max_new_tokens, window)",
     "the prompt isn't counted in the window"),
    ("if id is not None:\n                ids[row].append(id)\n                logprobs[row] += logprob",
     "if id is not None:\n                ids[row].append(id)\n                logprobs[row] = logprob",
     "only the last token's log-probability"),
    ('and step.stops[0] != "eos"', "", "the stream shows the end token"),
    ('if name in ("banned_ids", "no_repeat_ngram"):', 'if name == "no_repeat_ngram":',
     "a row of which all tokens are banned is an error"),
    ("apply(logits.masked_fill(blocked, 0.0)).masked_fill(blocked, filters.OUT)",
     "apply(logits.masked_fill(blocked, 0.0))", "a blocked row comes back to life"),
    ('        ("top_k", top_k is not None, lambda x: filters.top_k(x, top_k)),\n        ("min_p", min_p is not '
     "None, lambda x: filters.min_p(x, min_p)),\n",
     '        ("min_p", min_p is not None, lambda x: filters.min_p(x, min_p)),\n        ("top_k", top_k is not '
     "None, lambda x: filters.top_k(x, top_k)),\n", "min-p before top-k"),
    ('        ("min_p", min_p is not None, lambda x: filters.min_p(x, min_p)),\n        ("top_p", top_p is not '
     "None, lambda x: filters.top_p(x, top_p)),\n",
     '        ("top_p", top_p is not None, lambda x: filters.top_p(x, top_p)),\n        ("min_p", min_p is not '
     "None, lambda x: filters.min_p(x, min_p)),\n", "top-p before min-p"),
    ("not (isinstance(id, Integral) and id >= 0 and", "not (isinstance(id, Integral) and",
     "a negative id passes"),
]
BEAM = [
    # beam search
    ("so_far[:, None] + logits.double().log_softmax(-1)", "logits.double().log_softmax(-1)",
     "only the last token is ranked: nothing is cumulative"),
    ("logits.double().log_softmax(-1)", "logits.double()", "logits are taken for log-probabilities"),
    ("logits.double().log_softmax(-1)", "logits.log_softmax(-1)", "half-precision scores"),
    ("2 * width + len(live) * len(end_ids)", "width", "ended paths take the places of live ones"),
    ("if id in end_ids and rank < width:", "if id in end_ids:", "a path ends though it ranks too low"),
    ("if id in end_ids and rank < width:", "if id in end_ids and rank <= width:", "<= for <"),
    ("elif id not in end_ids and len(kept) < width:", "elif len(kept) < width:", "text goes on after the end token"),
    ("len(kept) < width:", "len(kept) <= width:", "the beam is one too wide"),
    ("max(len(path.ids), 1) ** length_penalty", "max(len(prompt) + len(path.ids), 1) ** length_penalty",
     "the length counts the prompt (vllm 2606)"),
    ("max(len(path.ids), 1) ** length_penalty", "max(len(path.ids) - 1, 1) ** length_penalty",
     "the length doesn't count the end token"),
    ("score = path.logprob / max", "score = path.logprob * max", "long texts are punished, not favoured"),
    ("limit = max(kept[0].logprob / length**length_penalty, kept[0].logprob / room**length_penalty)",
     "limit = kept[0].logprob / length**length_penalty", "it stops too early when length is favoured"),
    ("limit = max(kept[0].logprob / length**length_penalty, kept[0].logprob / room**length_penalty)",
     "limit = kept[0].logprob / room**length_penalty",
     "a wrong bound for a negative penalty (transformers PR 20901)"),
    ("if len(best) == width and best[-1].score >= limit:", "if best and best[0].score >= limit:",
     "it stops when the best is found, not the list"),
    ("if len(best) == width and best[-1].score >= limit:", "if best:", "it stops at the first end token"),
    ("if len(best) == width and best[-1].score >= limit:", "if False:", "it never stops early"),
    ("best[-1].score >= limit", "best[-1].score > limit", "it goes on for what could only draw level",
     "equals rank by who ended first, so what draws level later never enters the list: only slower"),
    ("if parents != list(range(len(live))):", "if False:", "the cache isn't reordered"),
    ("if parents != list(range(len(live))):", "if len(parents) != len(live):",
     "the cache is only reordered when the number of paths changes"),
    ("if parents != list(range(len(live))):", "if True:", "a cache in order is copied all the same",
     "the same rows in the same order: only slower"),
    ("divmod(candidate, V)", "divmod(candidate, width)", "the wrong axis: tokens and paths are confused"),
    ("[[*prompt, *path.ids] for path in live]", "[list(path.ids) for path in live]",
     "n-grams of the prompt may come again"),
    ('finished = [finish(path, "blocked") for path, is_blocked in zip(live, blocked, strict=True) if is_blocked]',
     "pass", "a path without a next token is lost"),
    ("        if stop:\n            finished += [finish(path, stop) for path in kept]\n", "",
     "paths that reach the maximum length are lost"),
    ("(scores >= worst) & (scores > filters.OUT)", "scores >= worst", "impossible tokens are taken"),
    ("(scores >= worst) & (scores > filters.OUT)", "(scores > worst) & (scores > filters.OUT)",
     "the last of the best is lost"),
    ("scores[able].sort(descending=True, stable=True)", "scores[able].sort(stable=True)", "worst first"),
    ("scores[able].sort(descending=True, stable=True)", "scores[able].sort(descending=True)",
     "equals in no promised order"),
    ("key=lambda generation: -generation.score", "key=lambda generation: -generation.logprob",
     "the list is ranked without the length penalty"),
    ("key=lambda generation: -generation.score)[:width]", "key=lambda generation: -generation.score)",
     "more are returned than asked for"),
]
# fmt: on
FAULTS = [
    Fault(file, *fault)
    for file, faults in {"filters.py": FILTERS, "generate.py": GENERATE, "beam.py": BEAM}.items()
    for fault in faults
]


def copy_project(target: Path) -> None:
    for name in ("plain_or_fast.py", "decoding", "minigpt", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt", "data"))
        else:
            shutil.copy(source, target / name)
    with open(target / "tests/conftest.py", "a", encoding="utf-8") as file:
        file.write(NO_SHRINKING)


def tests_pass(project: Path, file: str) -> bool:
    tests = [f"tests/test_decoding_{name}.py" for name in TESTS[file]]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:doctest",
        "-o",
        "addopts=-p no:cacheprovider",
        *tests,
    ]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return not subprocess.run(
            command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SECONDS
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def survives(fault: Fault | None, file: str) -> bool:
    """Whether the tests pass on a copy of the project with this fault, or with none."""
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        copy_project(project)
        if fault is not None:
            path = project / "decoding" / fault.file
            path.write_text(path.read_text(encoding="utf-8").replace(fault.old, fault.new), encoding="utf-8")
        return tests_pass(project, file)


def stale(fault: Fault) -> bool:
    return (ROOT / "decoding" / fault.file).read_text(encoding="utf-8").count(fault.old) != 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", help="the faults whose description or file has this text")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default 2)")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if not arguments.only or arguments.only in f"{fault.file}: {fault.breaks}"]
    for fault in filter(stale, chosen):
        print(f"stale: decoding/{fault.file} doesn't have exactly once: {fault.old}")
    if any(map(stale, chosen)):
        return 2
    started = time.perf_counter()
    for file in sorted({fault.file for fault in chosen}):
        if not survives(None, file):
            print(f"the tests of {file} fail without any fault: mend that first")
            return 2
    caught, equivalent, missed = 0, 0, []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for fault, survived in zip(chosen, pool.map(lambda fault: survives(fault, fault.file), chosen)):
            if not survived:
                verdict = "caught"
                caught += 1
            elif fault.equivalent:
                verdict = "equivalent"
                equivalent += 1
            else:
                verdict = "SURVIVED"
                missed.append(fault)
            print(f"{verdict:10}  {fault.file:11}  {fault.breaks}", flush=True)
            if survived and fault.equivalent:
                print(f"{'':25}{fault.equivalent}")
    print(
        f"{len(chosen)} faults: {caught} caught, {equivalent} equivalent, {len(missed)} survived "
        f"({time.perf_counter() - started:.0f} s)"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
