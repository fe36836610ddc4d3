"""The whole lecture in one file: tokens, a transformer, the loop, decoding, fine-tuning. It needs torch alone."""

# Run it with python -m scripts.nutshell. P1 to S6 are the lecture's statements: see docs/lecture.md.
import math
import random
import re
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

# ---- P1 Data. A town of 32 women. Each kind of fact has its values, sentences that tell it, and one that asks for it.
NAMES = re.findall(r"\w+", """Ada Amy Ann Bea Cleo Dee Eva Fay Gwen Ida Ina Iris Jane Joy Kim Lea Liv Lucy Mia May
    Nora Nina Olga Pam Rose Ruth Sue Tess Uma Vera Xena Zoe""")  # fmt: skip
KINDS = {
    "town": ("Oslo Rome Lima Bern Cairo Delhi", "{n} lives in {v}.|{n} calls {v} home.|{n} has a house in {v}.",
             "Where does {n} live?"),
    "job": ("baker doctor farmer pilot singer tailor", "{n} is a {v}.|{n} works as a {v}.|{n} was trained as a {v}.",
            "What does {n} do?"),
    "pet": ("cat dog duck goat horse parrot", "{n} has a {v}.|{n} keeps a {v}.|{n} loves her {v}.",
            "Which pet does {n} have?"),
}  # fmt: skip
END, PROMPT, RESPONSE, IGNORE = 0, 1, 2, -100  # three special tokens; a target that is not learnt
split = lambda text: [chunk.encode() for chunk in re.findall(r" ?\w+|[^\w\s]|\s", " " + text)]  # b" Hi", b",", b" you"


def document(town, rng):
    """One woman's facts in some order and wording: first her name, then "she". One text in five only asks for them."""
    name, (column, she) = rng.choice(NAMES), rng.choice([(2, "she")] + 4 * [(1, "She")])  # 1: it tells, 2: it asks
    kinds = zip([name, she, she], rng.sample(list(KINDS), 3))
    return " ".join(rng.choice(KINDS[k][column].split("|")).format(n=n, v=town[name, k]) for n, k in kinds)


class Tokenizer:
    """Bytes, and the tokens made by merging the most frequent pair of neighbours again and again."""

    def __init__(self, texts, merges):
        self.tokens = [b"<end>", b"<prompt>", b"<response>", *(bytes([byte]) for byte in range(256))]  # id -> bytes
        chunks = Counter(chunk for text in texts for chunk in split(text))  # no merge crosses their borders
        words = {chunk: [bytes([byte]) for byte in chunk] for chunk in chunks}
        for _ in range(merges):
            pairs = Counter()
            for chunk, word in words.items():
                for pair in zip(word, word[1:]):
                    pairs[pair] += chunks[chunk]
            if not pairs:
                break  # every chunk is one token
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            for word in words.values():
                merge(word, best)
            self.tokens.append(b"".join(best))
        self.ids = {token: i for i, token in enumerate(self.tokens) if i > RESPONSE}  # no text gives a special token

    def encode(self, text):
        ids = []
        for chunk in split(text):
            word = [bytes([byte]) for byte in chunk]
            while pairs := [pair for pair in zip(word, word[1:]) if b"".join(pair) in self.ids]:
                merge(word, min(pairs, key=lambda pair: self.ids[b"".join(pair)]))  # the one learnt first
            ids += [self.ids[token] for token in word]
        return ids

    def decode(self, ids):
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace").strip()  # without the first space


def merge(word, pair):
    for i in range(len(word) - 1):
        if tuple(word[i : i + 2]) == pair:
            word[i : i + 2] = [b"".join(pair)]


# ---- P2 Architecture. Ids (B, T), of B texts of T tokens, give logits (B, T, V): a score for each of V next tokens.
def attention(q, k, v):
    """Each token's query q meets the keys k of itself and of those before: their values v, mixed. (B, H, T, D) each."""
    T, D = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, T)
    return scores.masked_fill(torch.ones(T, T).triu(1) == 1, -math.inf).softmax(-1) @ v  # the future is out


class Block(nn.Module):
    def __init__(self, C, H):  # each token is a vector of C numbers, and in each of H heads of D = C / H
        super().__init__()
        self.H, self.norm1, self.norm2 = H, nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        x = x + self.out(attention(q, k, v).transpose(1, 2).reshape(B, T, C))  # here tokens learn of each other
        return x + self.mlp(self.norm2(x))  # here each works by itself


class GPT(nn.Module):
    def __init__(self, V, T=48, C=64, H=4, layers=2):
        super().__init__()
        self.token, self.position = nn.Embedding(V, C), nn.Parameter(torch.zeros(T, C))
        self.blocks, self.norm = nn.Sequential(*(Block(C, H) for _ in range(layers))), nn.LayerNorm(C)
        nn.init.normal_(self.token.weight, std=0.02)

    def forward(self, ids):
        x = self.token(ids) + self.position[: ids.shape[1]]  # (B, T, C)
        return self.norm(self.blocks(x)) @ self.token.weight.T  # (B, T, V): how near is it to each token's vector?


# ---- P3 Training: cross-entropy, an optimizer, a loop. Fine-tuning, at the end, calls the same function (S5).
def cross_entropy(logits, targets):
    """The mean of -log p(target) over the targets that are learnt."""
    learnt = targets != IGNORE
    return -logits[learnt].log_softmax(-1).gather(1, targets[learnt][:, None]).mean()


def train(model, rows, steps, peak, rng):
    """rows: pairs (ids, learn), where learn[i] says whether ids[i] is a target. At each place the next id is learnt."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95))
    for step in range(1, steps + 1):
        picked = rng.sample(rows, 32)
        inputs = pad_sequence([torch.tensor(ids[:-1]) for ids, _ in picked], True)
        shifted = [[i if learnt else IGNORE for i, learnt in zip(ids, learn)][1:] for ids, learn in picked]
        loss = cross_entropy(model(inputs), pad_sequence(list(map(torch.tensor, shifted)), True, IGNORE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = peak * min(step / 20, 1 - (step - 1) / steps)  # rise, then fall
        optimizer.step()
        if step == 1 or step % (steps // 4) == 0:
            print(f"  step {step:3}  loss {loss.item():.3f}, perplexity {loss.exp().item():.2f}")


# ---- G1 Generation is a for-loop: the model gives scores, an algorithm chooses a token, the token is appended.
greedy = lambda logits: logits.argmax().item()  # G4
draw = lambda logits: torch.multinomial(logits.softmax(-1), 1).item()  # G6
nucleus = lambda logits: draw(top_p(logits, 0.9))  # G8


@torch.no_grad()
def generate(model, ids, choose, limit=24):
    new = []
    while len(new) < limit and END not in new:  # G2
        new.append(choose(model(torch.tensor([ids + new]))[0, -1]))  # the last place's logits (V,)
    return new


def top_p(logits, p):
    """G8: keep the smallest set of most probable tokens whose total probability reaches p."""
    ranked, order = logits.sort(descending=True, stable=True)
    kept = int((ranked.softmax(-1).cumsum(-1) < p).sum()) + 1  # all that stay below p, and the one that reaches it
    return logits.scatter(0, order[kept:], -math.inf)


@torch.no_grad()
def beam(model, ids, width, limit=24):
    """G5: keep the `width` paths of highest probability so far. Returns the best one, as (ids, log-probability)."""
    live, finished = [([], 0.0)], []
    for _ in range(limit):
        grown = []  # all continuations of all paths, compared with each other
        for new, logprob in live:
            best = model(torch.tensor([ids + new]))[0, -1].log_softmax(-1).topk(width)
            grown += [([*new, i], logprob + p) for i, p in zip(best.indices.tolist(), best.values.tolist())]
        grown.sort(key=lambda path: -path[1])
        finished += [path for path in grown[:width] if path[0][-1] == END]
        live = [path for path in grown if path[0][-1] != END][:width]
    return max(finished + live, key=lambda path: path[1])


# ---- S3 Layout: <prompt> question <response> answer <end>. Only the answer and its end are learnt.
def encode_pair(tok, question, answer):
    asked, answered = [PROMPT, *tok.encode(question), RESPONSE], [*tok.encode(answer), END]
    return asked + answered, [False] * len(asked) + [True] * len(answered)


def main():
    rng = random.Random(0)
    torch.manual_seed(0)
    town = {(name, kind): rng.choice(KINDS[kind][0].split()) for name in NAMES for kind in KINDS}
    texts = [document(town, rng) for _ in range(2000)]
    tok = Tokenizer(texts, merges=250)
    print("P1 a text of the corpus in tokens:", [tok.tokens[i].decode() for i in tok.encode(texts[0])])
    print(f"P3 pretraining: the loss is ln(perplexity); so many tokens seem equally likely, at first {len(tok.tokens)}")
    model = GPT(len(tok.tokens))
    train(model, [([END, *ids, END], [True] * (len(ids) + 2)) for ids in map(tok.encode, texts)], 600, 4e-3, rng)
    zoe, asked = [END, *tok.encode("Zoe")], [END, *tok.encode("Where does Zoe live?")]  # as each text begins
    print("P5 the base model knows the town. It continues “Zoe”:\n  beam  ", tok.decode(zoe + beam(model, zoe, 4)[0]))
    for name, choose in (("greedy", greedy), ("top-p ", nucleus), ("again ", nucleus)):
        print(" ", name, tok.decode(zoe + generate(model, zoe, choose)))
    print("S1 and asked where she lives, it continues:", tok.decode(asked + generate(model, asked, greedy)))

    print("S5 fine-tuning, by the same loop, on questions about 24 of the women")
    facts = [(n, k, ask, tell.split("|")[0]) for n in NAMES for k, (_, tell, ask) in KINDS.items()]
    pairs = [(ask.format(n=n), tell.format(n="She", v=town[n, k])) for n, k, ask, tell in facts]
    train(model, [encode_pair(tok, *pair) for pair in pairs[: 24 * 3]], 80, 1e-3, rng)
    print("S6 it answers questions about the others:")
    for question, answer in pairs[24 * 3 :]:
        said = tok.decode(generate(model, encode_pair(tok, question, "")[0][:-1], greedy))  # [:-1]: no end yet
        print("  right" if said == answer + "<end>" else "  wrong", question, said)


if __name__ == "__main__":
    main()
