"""A tokenizer on disk: tokenizer.json as Hugging Face writes it, and GGUF's lists. A first reading skips it."""

import json
from collections.abc import Iterable, Iterator

from ..tokenizer import END, PROMPT, SPLIT, Tokenizer

# SmolLM2's split is the same after every digit has been taken out as a chunk of its own.
SPLIT_DIGITS = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# GPT-2's table: printable Latin-1 bytes stand for themselves, the others are moved up behind U+00FF.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_MOVED = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHAR = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_MOVED)}
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def to_json(tok: Tokenizer) -> str:
    """The tokenizer.json of Hugging Face's `tokenizers`, which opens it and agrees on the ids."""
    # That library writes each byte as a printable character and lists, for every token, the pairs that make it.
    text = ["".join(BYTE_TO_CHAR[byte] for byte in token) for token in tok.tokens]
    merges = []
    for token in tok.tokens:
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = sorted((tok.ranks[a], tok.ranks[b]) for a, b in splits if a in tok.ranks and b in tok.ranks)
        merges += [[text[a], text[b]] for a, b in known]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=tok.split == SPLIT)
    split = dict(type="Split", pattern={"Regex": tok.split}, behavior="Isolated", invert=False)
    split_first = dict(type="Sequence", pretokenizers=[split, byte_level])
    vocab = {name: i for i, name in enumerate(text) if name}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for name, i in tok.special.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level if tok.split == SPLIT else split_first,
        "post_processor": _start_to_json(tok),
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab | tok.special, "merges": merges},
    }
    return json.dumps(content, ensure_ascii=False)


def _start_to_json(tok: Tokenizer) -> dict | None:
    """What puts the start before a text; not for our own models, whose prompts in a chat begin without it."""
    if not tok.start or PROMPT in tok.special:
        return None
    known = {tok.special_names[i]: {"id": tok.special_names[i], "ids": [i]} for i in tok.start}
    known = {name: {**token, "tokens": [name]} for name, token in known.items()}
    first, second = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    single = [*({"SpecialToken": {"id": name, "type_id": 0}} for name in known), first]
    return dict(type="TemplateProcessing", single=single, pair=[*single, second], special_tokens=known)


def from_json(content: str, end: str = END, chat_template: str | None = None) -> Tokenizer:
    """Read a tokenizer.json, ours or another's. ValueError when it is no byte-level BPE that we have."""
    try:
        parsed = json.loads(content)
        model, special = parsed["model"], {token["content"]: token["id"] for token in parsed["added_tokens"]}
        for key, where in {"normalizer": parsed, "end_of_word_suffix": model, "byte_fallback": model}.items():
            if where.get(key):
                raise ValueError(f"{key} is {where[key]!r:.80}, and we have none")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        vocab = {name: i for name, i in model["vocab"].items() if name not in special}
        start = None if PROMPT in special else [special[name] for name in _start_from_json(parsed)]
        split = _split_from_json(parsed["pre_tokenizer"])
        return from_vocabulary(vocab, pairs, special, split=split, end=end, start=start, chat_template=chat_template)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as problem:
        raise ValueError(f"not a tokenizer.json of a byte-level BPE: {problem!r}") from problem
    except ValueError as problem:
        raise ValueError(f"tokenizer.json: {problem}") from problem


def from_vocabulary(
    vocab: dict[str, int], merges: Iterable[tuple[str, str]], special: dict[str, int], **other
) -> Tokenizer:
    """Build one from what files hold: tokens as printable characters, and the pairs that make them, in order.

    ValueError when the ids have a hole, or when the merges are not in the order of the ids that they make, which
    is how both tiktoken and `encode_by_hand` choose between them.
    """
    ids = sorted([*vocab.values(), *special.values()])
    if ids != list(range(len(ids))):
        raise ValueError("the ids must run from 0 without a hole")
    tokens = [b""] * (max(vocab.values()) + 1)
    for name, i in vocab.items():
        tokens[i] = bytes(CHAR_TO_BYTE[char] for char in name)
    made = [vocab[a + b] if a in vocab and b in vocab else -1 for a, b in merges]
    if made != sorted(made) or -1 in made:
        raise ValueError("the merges must join known tokens, and be in the order of the ids that they make")
    return Tokenizer(tokens, special, **other)


def _split_from_json(written: dict) -> str:
    """The pattern that a tokenizer.json's pre-tokenizer splits by."""
    match [{"use_regex": True} | part for part in written.get("pretokenizers", [written])]:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return SPLIT
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return SPLIT_DIGITS
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
    raise ValueError(f"pre_tokenizer is {written!r:.200}; we have ByteLevel, alone or after Digits or Split")


def _start_from_json(parsed: dict) -> Iterator[str]:
    """The special tokens that a tokenizer.json puts before a text."""
    post = parsed.get("post_processor") or {}
    for part in post.get("processors", [post]):
        for piece in part.get("single", []):
            if "SpecialToken" not in piece:
                break
            yield piece["SpecialToken"]["id"]
