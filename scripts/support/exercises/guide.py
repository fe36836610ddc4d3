"""For each exercise: the rules for its edges, three hints of rising strength, and small cases to begin with."""

import re
from typing import NamedTuple


class Case(NamedTuple):
    """A small case. Both sides are Python; `mistakes` names what a typical wrong result comes from."""

    says: str  # the rule, in the lecture's words
    code: str
    right: str
    mistakes: dict[str, str] = {}


class Guide(NamedTuple):
    """What helps with one exercise."""

    rules: str  # for the edges: with the signature and the docstring, enough to write the piece
    hints: tuple[str, str, str]
    prelude: str  # what the cases use
    cases: tuple[Case, ...]

    def helpers(self, code: str) -> list[str]:
        """The lines of the prelude that define what a case uses, to be shown beside it; none if they are many."""
        lines = [line for line in self.prelude.splitlines() if line and not line.startswith(("import ", "from "))]
        names = re.findall(r"^(?:def )?(\w+)(?:, (\w+))?(?:\(.*\):$| = )", "\n".join(lines), re.M)
        used = any(re.search(rf"\b{name}\b", code) for pair in names for name in pair if name)
        return lines if used and len(lines) <= 10 else []


TREE = "import torch\nfrom decoding import beam_search, generate, uncached\n"
FILTERS = "import torch\nfrom decoding.filters import temperature, top_k, top_p\nfrom decoding.generate import draw\n"
BYTES = "from minigpt.tokenizer import *\nsingle = [bytes([byte]) for byte in range(256)]\n"
NUMERIC = """
import numpy as np
from minigpt import numpy_gpt as twin

def errors():
    random = np.random.default_rng(0)
    x, dy = random.normal(size=(2, 3, 4))
    weights = [random.normal(size=(4, 4)) for _ in range(4)]
    angles = np.arange(3)[:, None] * np.array([1.0])
    shared = 1, 2, np.cos(angles), np.sin(angles)
    forward = lambda: (twin.attention(x, weights, shared)[0] * dy).sum()
    dx, gradients = twin.attention_backward(dy, twin.attention(x, weights, shared)[1])
    found = dict(zip(["dx", "query", "key", "value", "output"], [dx, *gradients]))
    off = {}
    for (name, gradient), array in zip(found.items(), [x, *weights]):
        slope = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            old = array[i]
            array[i] = old + 1e-5
            above = forward()
            array[i] = old - 1e-5
            slope[i] = (above - forward()) / 2e-5
            array[i] = old
        off[name] = float(abs(slope - gradient).max()) if gradient.shape == slope.shape else f"shape {gradient.shape}"
    return off
"""

GUIDES = {
    "bpe_merge": Guide(
        "A pair counts as often as its chunk occurs (the dict's values). Of equally frequent pairs, take the greater pair "
        "of byte strings. Stop early when no chunk has two tokens left. Return the new tokens in the order made.",
        (
            "Keep each chunk as a list of tokens, at first its single bytes. One turn of the loop makes one token.",
            "A turn has three phases: count all pairs of neighbours in a Counter, take the best, merge it everywhere.",
            "best = max(pairs, key=lambda pair: (pairs[pair], pair)); then merge(word, best) for every word; then append "
            "best[0] + best[1].",
        ),
        BYTES,
        (
            Case("The most frequent pair is merged first.", 'learn_merges({b"ab": 5, b"cd": 1}, 1)', '[b"ab"]',
                 {'[b"cd"]': "each distinct chunk was counted once; a pair counts as often as its chunk occurs"}),
            Case("A merge goes into the next count.", 'learn_merges({b"low": 3, b"lot": 2}, 2)', '[b"lo", b"low"]',
                 {'[b"lo", b"ow"]': "the merged pair still stands there as two tokens: merge it in every chunk"}),
            Case("Of equals, the greater pair comes first.", 'learn_merges({b"ab": 1, b"cd": 1}, 1)', '[b"cd"]',
                 {'[b"ab"]': "of equally frequent pairs, the greater pair of byte strings is taken"}),
            Case("It ends when nothing is left to merge.", 'learn_merges({b"a": 1}, 5)', "[]"),
        )),
    "bpe_encode": Guide(
        "No merge crosses the border of two chunks. A chunk that is a token is that token. Of pairs, the one whose token "
        "has the lowest rank is merged; of equals, the leftmost. A pair that makes no token is never merged.",
        (
            "Work on one chunk of chunks_of(text, tok.split) at a time, and begin with its single bytes.",
            "Look up the rank of what every pair of neighbours would make; math.inf where it makes no token.",
            "made = [ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:])]; merge at made.index(min(made)), until "
            "the smallest is math.inf.",
        ),
        BYTES + "tok = lambda *made: Tokenizer(single + list(made))\n",
        (
            Case("The pair learnt first is merged first.", 'encode_ordinary(tok(b"bc", b"ab"), "abc")', "[97, 256]",
                 {"[257, 99]": "the leftmost pair was merged; the one learnt first goes first"}),
            Case("Merges build on merges.", 'encode_ordinary(tok(b"ab", b"abc"), "abc")', "[257]",
                 {"[256, 99]": "after a merge, look at the pairs again"}),
            Case("Of equals, the leftmost is merged.", 'encode_ordinary(tok(b"aa"), "aaa")', "[256, 97]",
                 {"[97, 256]": "of equal pairs, the leftmost one is merged"}),
            Case("No merge crosses the border of two chunks.", 'encode_ordinary(tok(b"a "), "a b")', "[97, 32, 98]",
                 {"[256, 98]": "a merge crossed the border of two chunks: encode each chunk by itself"}),
        )),
    "norm": Guide(
        "The mean runs over the last axis only. eps is added to the mean square, under the root, so zeros stay zeros.",
        (
            "No mean is subtracted: that would be LayerNorm.",
            "Square, take the mean over the last axis with keepdim=True, add eps, take the root.",
            "x / (mean_square + eps).sqrt() * weight",
        ),
        "import torch\nfrom minigpt.formulas import rms_norm\nT = torch.tensor\n",
        (
            Case("Divide by the root of the mean square.", "rms_norm(T([3., 4.]), torch.ones(2), 0.)", "[.8485, 1.1314]",
                 {"[-1., 1.]": "the mean was subtracted: that is LayerNorm",
                  "[.6, .8]": "divided by the length: take the mean of the squares, not their sum"}),
            Case("Each vector by itself, then scaled.", "rms_norm(T([[1., 1.], [2., 2.]]), T([1., 3.]), 0.)",
                 "[[1., 3.], [1., 3.]]", {"[[.6325, 1.8974], [1.2649, 3.7947]]": "the mean runs over the last axis only"}),
            Case("Zeros stay zeros.", "rms_norm(torch.zeros(2), torch.ones(2), 1e-5)", "[0., 0.]",
                 {"[float('nan')] * 2": "0 / 0: add eps under the root"}),
        )),
    "rotary": Guide(
        "Entries i and i + D/2 are a pair, not neighbours. Pair i turns by position · theta^(-2i/D) radians, from the first "
        "entry towards the second. Compute the angles in float64; return the dtype of x.",
        (
            "Turning (a, b) by an angle gives (a cos - b sin, b cos + a sin).",
            "The frequencies are theta ** (-arange(0, D, 2) / D); the angles are positions[:, None] * frequencies, (T, D/2).",
            "first, second = x.chunk(2, dim=-1), and torch.cat of the two turned halves.",
        ),
        "import torch\nfrom minigpt.formulas import rotary\nT = torch.tensor\n",
        (
            Case("Position 0 isn't turned, position 1 by one radian.", "rotary(T([[1., 0.], [1., 0.]]), T([0, 1]), 1e4)",
                 "[[1., 0.], [.5403, .8415]]", {"[[1., 0.], [.5403, -.8415]]": "turned the other way"}),
            Case("Entries i and i + D/2 are a pair.", "rotary(T([[1., 0., 0., 0.]]), T([1]), 100.)", "[[.5403, 0., .8415, 0.]]",
                 {"[[.5403, .8415, 0., 0.]]": "neighbours were paired; Llama's files pair i with i + D/2"}),
            Case("Later pairs turn more slowly.", "rotary(T([[0., 1., 0., 0.]]), T([1]), 100.)", "[[0., .9950, 0., .0998]]",
                 {"[[0., .5403, 0., .8415]]": "every pair turned by the same angle"}),
        )),
    "attention": Guide(
        "The T queries belong to the last T of S tokens: with a cache, T is smaller than S. Where the mask forbids, the "
        "score is -inf, not a large negative number. Each of the K key heads serves H/K query heads in a row.",
        (
            "Compare every query with every key: one matrix product, then divide by the root of D.",
            "Hide the future before the softmax, with causal_mask(T, S): what it gives is what may be seen.",
            "softmax((query @ key.transpose(2, 3) / sqrt(D)).masked_fill(~mask, -inf)) @ value, after "
            "repeat_interleave(H // K, dim=1) of key and value.",
        ),
        "import torch\nfrom minigpt.formulas import causal_attention\nZ, T = torch.zeros, torch.tensor\n"
        "two, v = T([[[[0.] * 4, [1.] * 4]]]), T([[[[1.], [3.]]]])\n",
        (
            Case("A token sees itself and those before it.", "causal_attention(Z(1, 1, 2, 1), Z(1, 1, 2, 1), v).flatten()",
                 "[1., 2.]", {"[2., 2.]": "the first token saw the second: the causal mask is missing",
                              "[float('nan'), 1.]": "a token must see itself too"}),
            Case("Scores are divided by the root of D.", "causal_attention(two, two, two)[0, 0, 1, 0]", ".8808",
                 {".9820": "the scores aren't divided by the root of D", ".7311": "divided by D: it is the root of D"}),
            Case("With a cache, the queries are the last tokens.",
                 "causal_attention(Z(1, 1, 1, 1), Z(1, 1, 2, 1), v).flatten()", "[2.]",
                 {"[1.]": "the query was taken for the first token; it is the last of S"}),
            Case("A key head serves several query heads.",
                 "causal_attention(Z(1, 2, 1, 1), Z(1, 1, 1, 1), Z(1, 1, 1, 1) + 5).flatten()", "[5., 5.]"),
        )),
    "kv_cache": Guide(
        "In reach: cache (empty for the first tokens), key and value (B, K, T, D) of the new tokens. Afterwards key and "
        "value must be (B, K, S, D), the earlier tokens in front. The line below stores them.",
        (
            "The cache holds the same two tensors for the earlier tokens, under \"key\" and \"value\".",
            "Join old and new along the axis of time, the old ones first.",
            "if cache: key = torch.cat([cache[\"key\"], key], dim=2), and the same for value.",
        ),
        "import torch\nfrom minigpt import GPT, GPTConfig\ntorch.manual_seed(0)\n"
        "model, ids = GPT(GPTConfig.toy(vocab_size=9)).eval(), torch.tensor([[1, 2, 3, 4, 5]])\n"
        "caches = [{} for _ in model.blocks]\nfirst = model(ids[:, :3], caches)\n"
        "def rest():\n    caches = [{} for _ in model.blocks]\n    model(ids[:, :3], caches)\n"
        "    return model(ids[:, 3:], caches), caches\n",
        (
            Case("The cache holds all tokens so far.", 'rest()[1][0]["key"].size(2)', "5",
                 {"2": "only the new tokens are there: put the earlier ones in front"}),
            Case("Reading on gives what reading all gives.", "(rest()[0] - model(ids)[:, 3:]).abs().max().item()", "0.0"),
        )),
    "cross_entropy": Guide(
        "Targets equal to `ignore` count neither in the sum nor in the divisor. Without any target the mean is NaN and the "
        "sum is 0. Half precision is computed in fp32. Logits of any size must not overflow.",
        (
            "-log softmax(logits)[target] = logsumexp(logits) - logits[target].",
            "Select the learnt rows first: learnt = targets != ignore; logits[learnt] is (N, V).",
            "logits.gather(-1, targets[:, None])[:, 0] are the targets' logits; subtract them from logits.logsumexp(-1).",
        ),
        "import torch\nfrom minigpt.formulas import cross_entropy\nT = torch.tensor\n",
        (
            Case("Knowing nothing costs ln V.", "cross_entropy(torch.zeros(2, 8), T([1, 2]))", "2.0794",
                 {"-2.0794": "the sign: the loss is minus the log-probability", "0.125": "that is p; the loss is -log p"}),
            Case("The mean runs over the learnt targets.", "cross_entropy(torch.zeros(3, 8), T([1, 2, -100]))", "2.0794",
                 {"1.3863": "divided by all targets; only the learnt ones count"}),
            Case("reduction='sum' adds up.", "cross_entropy(torch.zeros(3, 8), T([1, 2, -100]), reduction='sum')", "4.1589"),
            Case("Large logits don't overflow.", "cross_entropy(T([[1000., 0.]]), T([0]))", "0.0",
                 {"float('nan')": "exp overflowed: use logsumexp"}),
        )),
    "adamw": Guide(
        "A parameter whose grad is None stays as it is. Tensors with two axes or more are decayed, vectors aren't. Both "
        "running means live in self.moments and are changed in place. count is 1 for the first step.",
        (
            "Two running means: of the gradient (beta1) and of its square (beta2).",
            "Both start at 0, so early on they are too small: divide them by 1 - beta ** count.",
            "Decay: parameter.mul_(1 - lr * weight_decay). Then move by -lr * (mean / (1 - beta1**count)) / "
            "((square / (1 - beta2**count)).sqrt() + eps).",
        ),
        "import torch\nfrom minigpt.optim import AdamW\n"
        "def after(start, gradients, decay=0.0):\n    weight = torch.nn.Parameter(torch.tensor(start))\n"
        "    optimizer = AdamW({'w': weight}, (0.9, 0.95), 1e-8, decay)\n"
        "    for count, gradient in enumerate(gradients, 1):\n"
        "        weight.grad = None if gradient is None else torch.full_like(weight, gradient)\n"
        "        optimizer.step(0.1, count)\n    return weight.detach().flatten()\n",
        (
            Case("The first step has length lr.", "after([[1.]], [.5])", "[.9]",
                 {"[.95]": "that is plain gradient descent: divide by the root of the mean square",
                  "[.9553]": "both means start at 0: divide them by 1 - beta ** count", "[1.1]": "the sign"}),
            Case("The running means remember.", "after([[1.]], [.5, -.5])", "[.9053]"),
            Case("Matrices decay.", "after([[1.]], [0.], .5)", "[.95]", {"[1.]": "a matrix is decayed by lr · weight_decay"}),
            Case("Norms and biases don't.", "after([1.], [0.], .5)", "[1.]", {"[.95]": "vectors aren't decayed"}),
            Case("Without a gradient nothing moves.", "after([[1.]], [None], .5)", "[1.]"),
        )),
    "attention_backward": Guide(
        "Go through the forward pass from its end to its beginning; `cache` holds what it computed. Each array must have "
        "the shape of what it is the gradient of. The order of the four is query, key, value, output.",
        (
            "A product Y = A @ B has the gradients dA = dY @ Bᵀ and dB = Aᵀ @ dY. A rotation is turned back.",
            "The softmax: dscores = p · (dp - the sum of dp · p along the row). Then the factor 1 / sqrt(D).",
            "In this order: dw_output and dmerged, split_heads; dvalue and dp; dscores; dquery and dkey, rotate(…, cos, -sin); "
            "merge_heads; dx is the sum over the three projections.",
        ),
        NUMERIC,
        (
            Case("Every gradient is the slope (how far each is off).", "errors()",
                 '{"dx": 0.0, "query": 0.0, "key": 0.0, "value": 0.0, "output": 0.0}'),
        )),
    "stop": Guide(
        "settings.end_ids are the end tokens, settings.max_new_tokens the maximum, room the tokens left in the window. If "
        "several hold at once, the first of blocked, eos, length, context is told.",
        (
            "Four questions in a fixed order, each with a return.",
            "id is None means that no token was left; the end token counts even when it is the last one allowed.",
            "None → blocked; id in settings.end_ids → eos; length == settings.max_new_tokens → length; length == room → context.",
        ),
        "from decoding.generate import why_stop\nfrom decoding.settings import Settings\n"
        "S = Settings(max_new_tokens=3, eos_id=9)\n",
        (
            Case("It goes on until something ends it.", "why_stop(1, 1, 99, S)", "None"),
            Case("It ends at the end token.", "why_stop(9, 1, 99, S)", "'eos'"),
            Case("Or at the maximum length.", "why_stop(1, 3, 99, S)", "'length'", {"None": "the maximum is reached at length 3"}),
            Case("Whichever is first: the end token is told.", "why_stop(9, 3, 3, S)", "'eos'",
                 {"'length'": "the end token is told before the length"}),
            Case("A full window ends it too.", "why_stop(1, 2, 2, S)", "'context'"),
            Case("No token left.", "why_stop(None, 1, 99, S)", "'blocked'"),
        )),
    "choice": Guide(
        "In reach: filtered (V,), settings, chance (a random.Random). Set id, a Python int. At temperature 0 the chance isn't "
        "asked; otherwise exactly one chance.random() per token, as a float64 tensor on the device of the logits.",
        (
            "Greedy is the argmax; anything else is one call of draw.",
            "Choose from the filtered logits, not from what the model said.",
            "id = draw(filtered, torch.tensor(chance.random(), dtype=torch.float64, device=logits.device)).item()",
        ),
        TREE + "coin = uncached(lambda ids: torch.tensor([[.6, .4]]).log().expand(len(ids), 1, 2))\n"
        "counts = uncached(lambda ids: torch.nn.functional.one_hot((ids + 1) % 5, 5).double())\n"
        "drawn = lambda **more: sorted({generate(coin, [[0]], max_new_tokens=1, seed=s, **more)[0].ids[0] for s in range(40)})\n",
        (
            Case("Greedy takes the most probable token.", "generate(counts, [[0]], max_new_tokens=3, temperature=0)[0].ids",
                 "[1, 2, 3]"),
            Case("Otherwise it is drawn.", "drawn()", "[0, 1]", {"[0]": "the most probable token every time: draw it by chance"}),
            Case("It is drawn from what the filters left.", "drawn(top_k=1)", "[0]",
                 {"[0, 1]": "drawn from the model's logits; the filtered ones count"}),
        )),
    "beam": Guide(
        "A candidate is divmod(candidate, V): which live path, and which token. An end token counts as finished only if it "
        "ranks among the best `width` (rank < width), else it is pruned. Others are kept while fewer than `width` are kept. "
        "Give each kept path's parent to `parents`. The length is `length`; why_stop(id, length, room, settings) tells an end.",
        (
            "Three lists to fill: kept (with parents), finished, pruned. Each candidate goes into exactly one.",
            "path = Path((*live[parent].ids, id), logprob): the logprob in the ranking is that of the whole path already.",
            'stop == "eos" and rank < width: finished.append(finish(path, stop)); stop != "eos" and len(kept) < width: kept '
            "and parents; else pruned.",
        ),
        TREE + "tree = uncached(lambda ids: torch.tensor([[.5, .5, 0], [.1, .9, 0], [.6, .4, 0]])[ids].log())\n"
        "late = uncached(lambda ids: torch.tensor([[.25] * 4, [.25] * 4, [.25] * 4, [.6, 0, .4, 0]])[ids].log())\n"
        "found = lambda model, start, **more: [one.ids for one in beam_search(model, [start], max_new_tokens=2, **more)]\n",
        (
            Case("Beam search finds what greedy misses.", "found(tree, 2, width=2)", "[[1, 1], [0, 0]]",
                 {"[[0, 0], [0, 1]]": "only children of the best path: rank all continuations of all paths together"}),
            Case("Width 1 is greedy.", "found(tree, 2, width=1)", "[[0, 0]]"),
            Case("An end counts only among the best `width`.", "found(late, 3, width=1, eos_id=2)", "[[0, 0]]",
                 {"[[2]]": "an end that ranks behind the best `width` was counted as finished"}),
        )),
    "multinomial": Guide(
        "A uniform number is in [0, 1). Scale it by the last cumulative sum, which rounding may leave below 1. Never give a "
        "token of probability 0: at equality go on, and never go past the last token of positive probability, even if "
        "rounding makes the number 1. Sum in float64.",
        (
            "The cumulative sums are the borders of intervals on a line, one for each token.",
            "Find the first border that is above the number: torch.searchsorted(…, right=True).",
            "ids = searchsorted(mass, uniforms[..., None] * total, right=True); last = searchsorted(mass, total); the smaller of both.",
        ),
        FILTERS + "D = lambda *x: torch.tensor(x, dtype=torch.float64)\nOUT = -torch.inf\n",
        (
            Case("Walk up until the sum passes the number.", "draw(D(.2, .5, .3).log().repeat(3, 1), D(.1, .3, .9))", "[0, 1, 2]",
                 {"[1, 1, 1]": "the most probable token each time: the uniform number decides"}),
            Case("A number on the border goes to the next token.", "draw(D(.5, .5).log(), D(.5)[0])", "1",
                 {"0": "at equality go on: the sum must be above the number"}),
            Case("A token of probability 0 is never drawn.", "draw(D(OUT, 0., OUT), D(0.)[0])", "1",
                 {"0": "the number 0 gave a token of probability 0"}),
            Case("Not even at the end.", "draw(D(OUT, 0., OUT), D(1.)[0])", "1",
                 {"2": "past the last token of positive probability", "3": "past the end of the vocabulary"}),
        )),
    "top_k": Guide(
        "Exactly min(k, V) tokens stay; of equals, the lowest ids. Kept logits stay as they are, in their places; the "
        "others become -inf. Rows of a batch are independent.",
        (
            "Sort the ids, the most probable first, stably: torch.topk doesn't promise an order among equals.",
            "order[..., k:] are the ids that go out.",
            "logits.scatter(-1, order[..., k:], OUT)",
        ),
        FILTERS + "T, OUT = torch.tensor, -torch.inf\n",
        (
            Case("Keep the k most probable.", "top_k(T([1., 3., 2.]), 2)", "[OUT, 3., 2.]",
                 {"[3., 2., OUT]": "the kept ones moved: put them back in the vocabulary's order",
                  "[1., 3., OUT]": "the first k were kept: rank them by probability",
                  "[0., .7311, .2689]": "these are probabilities: give logits back, unchanged"}),
            Case("Each row by itself.", "top_k(T([[1., 3.], [3., 1.]]), 1)", "[[OUT, 3.], [3., OUT]]"),
            Case("Of equals, the lowest ids.", "top_k(torch.zeros(3), 2)", "[0., 0., OUT]",
                 {"[0., 0., 0.]": "exactly k stay, also among equals", "[OUT, 0., 0.]": "of equals, the lowest ids stay"}),
            Case("A k above V keeps all.", "top_k(T([1., 2.]), 5)", "[1., 2.]"),
        )),
    "top_p": Guide(
        "The sum *reaches* p when it is p or more; ROUNDING below p counts as p. Sum in float64. p = 0 keeps the most "
        "probable token, p = 1 changes nothing. Of equals, the lowest ids stay. Kept logits stay as they are, in their "
        "places. (Bad arguments and NaN are checked elsewhere.)",
        (
            "Sort by probability, the most probable first, and add up.",
            "A token stays if the sum of those *before* it hasn't reached p; the first one always stays.",
            "out = (mass >= p - ROUNDING).roll(1, -1); out[..., 0] = False; then scatter the ranked logits back by `order`.",
        ),
        FILTERS + "kept = lambda *x, p: top_p(torch.tensor(x).log(), p).isfinite()\n",
        (
            Case("Keep the smallest set that reaches p.", "kept(.1, .6, .3, p=.7)", "[False, True, True]",
                 {"[False, True, False]": "that is the largest set below p: the token that reaches p stays too",
                  "[True, True, True]": "nothing was taken out",
                  "[True, True, False]": "the kept ones are still in sorted order: put them back in the vocabulary's"}),
            Case("“Thanks a”, p = .88: one token is enough.", "kept(.89, .06, .05, p=.88)", "[True, False, False]",
                 {"[True, True, False]": "one too many: .89 alone reaches .88",
                  "[False, False, False]": "the first token always stays"}),
            Case("A sum equal to p reaches it.", "kept(.5, .25, .25, p=.5)", "[True, False, False]",
                 {"[True, True, False]": "one too many: .5 reaches .5"}),
            Case("Of equals, the lowest ids.", "kept(.25, .25, .25, .25, p=.5)", "[True, True, False, False]"),
            Case("p = 0 keeps the most probable.", "kept(.4, .6, p=0)", "[False, True]"),
            Case("Kept logits stay unchanged.", "top_p(torch.tensor([1., 5.]), .5)", "[-torch.inf, 5.]",
                 {"[0., 1.]": "these are probabilities: give logits back", "[-torch.inf, 0.]": "the logits were normalised"}),
        )),
    "temperature": Guide(
        "t = 1 changes nothing. t = 0 leaves the argmax alone; of equals, the lowest id. Subtract the largest logit before "
        "dividing, compute in float64, and clamp to the smallest finite number of the dtype, so that every t > 0 gives "
        "finite probabilities. A token that is out stays out.",
        (
            "Divide the logits, not the probabilities.",
            "After subtracting the largest logit, it is 0 and the others are negative: dividing can't overflow upwards.",
            "divided = (logits.double() - largest) / t; clamp(min=torch.finfo(logits.dtype).min); .to(logits.dtype); "
            "masked_fill(logits == OUT, OUT).",
        ),
        FILTERS + "after = lambda x, t: temperature(torch.tensor(x), t).softmax(-1)\nimport math\n",
        (
            Case("Below 1 it sharpens.", "after([math.log(.2), math.log(.8)], .5)", "[.0588, .9412]",
                 {"[.3333, .6667]": "it was flattened: divide by t, don't multiply"}),
            Case("1 changes nothing.", "temperature(torch.tensor([1., 2.]), 1)", "[1., 2.]"),
            Case("0 is greedy; of equals, the lowest id.", "after([1., 3., 3.], 0)", "[0., 1., 0.]",
                 {"[0., .5, .5]": "of equals, only the lowest id stays", "[float('nan')] * 3": "divided by 0"}),
            Case("A tiny t doesn't overflow.", "after([0., 1000.], 1e-30)", "[0., 1.]",
                 {"[float('nan')] * 2": "infinity: subtract the largest logit first"}),
            Case("What is out stays out.", "after([0., -math.inf], 2.)", "[1., 0.]"),
        )),
    "template_mask": Guide(
        "In reach: dialogue, add(ids, learnt), fixed(text), lead (what stands before the first question), template.gap before "
        "every question but the first. An answer and its end are learnt; all else isn't. A conversation may end with a question.",
        (
            "Go through the messages: an answer is added as learnt, a question as not learnt.",
            "Encode the texts by tok.encode and the template's parts by fixed, each apart, so that no merge crosses a seam.",
            "An answer is [*tok.encode(message.content), *fixed(template.end)]; a question stands between fixed(template.question) "
            "and fixed(template.answer).",
        ),
        "from minigpt import Tokenizer\nfrom sft import Message, encode_conversation\n"
        "tok = Tokenizer([bytes([byte]) for byte in range(256)])\n"
        "def laid_out(*texts):\n"
        "    messages = [Message(['user', 'assistant'][i % 2], text) for i, text in enumerate(texts)]\n"
        "    ids, learn = encode_conversation(tok, messages)\n"
        "    return tok.decode(ids), tok.decode(i for i, learnt in zip(ids, learn) if learnt)\n",
        (
            Case("The response and its end are learnt.", "laid_out('Hi', 'Yo')",
                 "['<|prompt|>Hi<|response|>Yo<|endoftext|>', 'Yo<|endoftext|>']",
                 {"['<|prompt|>Hi<|response|>Yo<|endoftext|>', 'Yo']": "the end token isn't learnt: it would never stop",
                  "['<|prompt|>Hi<|response|>Yo<|endoftext|>'] * 2": "the prompt is learnt too",
                  "['<|prompt|>Hi<|response|>Yo', 'Yo']": "the end token is missing: it would never stop",
                  "['<|prompt|>Hi<|response|>Yo<|endoftext|>', '<|response|>Yo<|endoftext|>']":
                      "the token that opens the response is given, not learnt"}),
            Case("A question opens the answer.", "laid_out('Hi')", "['<|prompt|>Hi<|response|>', '']",
                 {"['<|prompt|>Hi', '']": "asked like this, it wouldn't begin to answer: open the response"}),
            Case("Every answer is learnt.", "laid_out('A', 'b', 'C', 'd')[1]", "'b<|endoftext|>d<|endoftext|>'"),
        )),
    "collation": Guide(
        "rows.ids[i] and rows.learn[i] are one example, picks the rows of this batch. Inputs are without the last id. The "
        "target at a place is the *next* id, or IGNORE if that one isn't learnt. Batch.from_rows pads.",
        (
            "Both lists are one shorter than the example.",
            "learn belongs to the target, so it is shifted together with the ids.",
            "zip(rows.ids[i][1:], rows.learn[i][1:]) gives each target and whether it is learnt.",
        ),
        "from sft.data import Rows, collate\nrows = Rows([[5, 6, 7], [8, 9]], [[False, False, True], [False, True]], 0, 0)\n",
        (
            Case("Inputs are without the last id.", "collate(rows, [0, 1]).inputs", "[[5, 6], [8, 0]]",
                 {"[[5, 6, 7], [8, 9, 0]]": "the last id is a target only"}),
            Case("Targets are one token later, prompts out.", "collate(rows, [0, 1]).targets", "[[-100, 7], [9, -100]]",
                 {"[[-100, -100], [-100, -100]]": "the targets aren't shifted: each predicts the *next* token",
                  "[[6, 7], [9, -100]]": "the prompt is learnt: IGNORE where learn says no"}),
            Case("Only the picked rows.", "collate(rows, [1]).targets", "[[9]]"),
        )),
}  # fmt: skip
