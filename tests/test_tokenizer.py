"""Byte-pair encoding against tiktoken, `tokenizers` and a trainer that works on the text with str.replace."""

import base64
import json
import random
import time
import unicodedata
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import regex
import tiktoken
import tokenizers
import torch
from conftest import TEXTS
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt import Tokenizer, tokenizer
from minigpt.fast import encoding, merges
from minigpt.files.reading import file_hash
from minigpt.files.tokenizer_json import from_json, to_json
from minigpt.tokenizer import END, SPECIAL_TOKENS, SPLIT
from plain_or_fast import plain

# Characters that Python knows: those newer than that are split differently by libraries of different age.
characters = st.characters(exclude_categories=["Cs", "Cn"])
special = st.sampled_from(SPECIAL_TOKENS)
texts = st.lists(st.one_of(st.text(characters), st.sampled_from([*TEXTS, "  ", "\n\n", "'ll", "42"]), special)).map(
    "".join
)
few_letters = st.text("ab ", max_size=60)
VARIED = [
    "",
    " ",
    "for i in range(10):\n\tprint(f'{i:>3}')   # tabs,  runs   of    spaces\r\n\r\n",
    "Zażółć gęślą jaźń; Ünïcödé; l'été n'est-ce pas? I'LL, we'll, they'd've",
    "한국어 日本語 العربية हिन्दी ไทย",
    "🙂👩‍👩‍👧‍👦🇳🇴 e\u0301 \u00a0\u2003\u200b x²½Ⅷ 007 3.14159e-10",
    "aaaaaaaa" * 9,
]


@given(texts)
def test_encoding_by_hand_is_tiktokens_and_decoding_undoes_it(tok, text):
    ids = tok.encode(text)
    assert tok.encode_by_hand(text) == ids
    assert tok.decode(ids) == text


@pytest.mark.parametrize("text", VARIED)
def test_varied_text_comes_back_whole(tok, text):
    assert tok.encode_by_hand(text) == tok.encode(text)
    assert tok.decode(tok.encode(text)) == "".join(tok.decode_stream(tok.encode(text))) == text


@given(st.lists(few_letters, max_size=4), few_letters, st.integers(0, 12))
def test_any_vocabulary_encodes_any_text_by_hand_as_with_tiktoken(corpus, text, merges):
    tok = Tokenizer.train(corpus, 259 + merges)
    assert tok.encode_by_hand(text) == tok.encode(text)


@given(texts)
def test_special_strings_in_a_text_never_become_special_ids(tok, text):
    assert not set(tok.encode(f"{text}{END}<|prompt|>")) & set(tok.special.values())


def test_special_ids_follow_the_ordinary_ones_and_decode_to_their_names(tok):
    assert list(tok.special) == list(SPECIAL_TOKENS)
    assert list(tok.special.values()) == [len(tok.tokens), len(tok.tokens) + 1, len(tok.tokens) + 2]
    assert tok.vocab_size == len(tok.tokens) + 3 == 320
    assert tok.decode(tok.special.values()) == "".join(SPECIAL_TOKENS)


@given(st.lists(st.integers(0, 319), max_size=40))
@example(list("🙂".encode()))
@example([*"🙂".encode()[:3], *"é🙂".encode()])
@example([0xED, 0xA0, 0x80, 0xF0, 0x9F])
def test_streamed_pieces_join_to_the_decoded_text(tok, ids):
    assert "".join(tok.decode_stream(ids)) == tok.decode(ids)


def test_a_character_split_over_tokens_is_streamed_whole():
    # docs/known_bugs.md: streams that split an emoji
    tok = Tokenizer.train([], 259)
    assert list(tok.decode_stream(tok.encode("a🙂é!"))) == ["a", "🙂", "é", "!"]


def test_a_stream_yields_before_its_ids_end(tok):
    ids = iter(tok.encode("Ada lives"))
    assert next(tok.decode_stream(ids)) == tok.decode(tok.encode("Ada lives")[:1])
    assert list(ids) == tok.encode("Ada lives")[1:]


@pytest.mark.parametrize("id", [-1, 320, 10**6])
def test_an_id_outside_of_the_vocabulary_is_refused(tok, id):
    with pytest.raises(ValueError, match=f"token id {id}: must be from 0 to 319"):
        tok.decode([65, id])


@pytest.mark.parametrize("wrong", ["65", 65.0, None, [65]], ids=repr)
def test_what_is_no_whole_number_is_no_token_id(tok, wrong):
    with pytest.raises(ValueError, match=f"token id {regex.escape(repr(wrong))}: must be a whole number"):
        tok.decode([65, wrong])
    assert tok.decode(np.array([65])) == tok.decode(torch.tensor([65])) == tok.decode([65])


def merges_by_replacing(corpus: list[str], count: int) -> list[bytes]:
    """The tokens of `count` merges by another road: one long text in which each token is one character."""
    chars = {bytes([byte]): chr(0x10000 + byte) for byte in range(256)}
    token = {char: piece for piece, char in chars.items()}
    chunks = [chunk.encode() for text in corpus for chunk in regex.findall(SPLIT, text)]
    text = "|".join("".join(chars[bytes([byte])] for byte in chunk) for chunk in chunks)
    while len(token) < 256 + count:
        pairs = Counter(a + b for a, b in zip(text, text[1:]) if "|" not in (a, b))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], token[pair[0]], token[pair[1]]))
        made = token[best[0]] + token[best[1]]
        char = chars.setdefault(made, chr(0x10000 + len(chars)))
        token[char] = made
        text = text.replace(best, char)
    return list(token.values())[256:]


corpora = st.lists(st.one_of(few_letters, st.text("abcdé🙂 ", max_size=40), texts), max_size=5)


@pytest.mark.claim("P1")
@pytest.mark.usefixtures("edition")
@given(corpora, st.integers(0, 40))
@example(["abcbcab", "bcabc"], 40)
@example(TEXTS, 200)
def test_training_learns_what_replacing_in_the_whole_text_learns(corpus, merges):
    tok = Tokenizer.train(corpus, 259 + merges)
    assert tok.tokens[256:] == merges_by_replacing(corpus, merges)
    assert len(set(tok.tokens)) == len(tok.tokens)


# Chunks in which many pairs are equally frequent, and in which tokens repeat and overlap.
ties = st.dictionaries(
    st.one_of(st.text("ab", min_size=1, max_size=12), st.text(max_size=6)).map(str.encode),
    st.integers(1, 3),
    max_size=8,
)


def assert_both_editions_learn_alike(chunks: dict[bytes, int], count: int) -> None:
    with plain():
        expected = tokenizer.learn_merges(chunks, count)
    assert merges.learn_merges(chunks, count) == expected


@given(ties, st.integers(0, 60))
@example({b"abcbcab": 1, b"bcabc": 2}, 60)
@example({b"aaaaaaa": 1, b"aaa": 2}, 60)
@example({bytes([a, b]): 1 for a in range(0, 256, 17) for b in range(256)}, 60)
def test_the_fast_trainer_learns_what_the_plain_one_learns(chunks, count):
    assert_both_editions_learn_alike(chunks, count)


@given(corpora, st.integers(0, 60))
def test_the_fast_trainer_learns_what_the_plain_one_learns_from_text(corpus, count):
    chunks = Counter(chunk.encode() for text in corpus for chunk in regex.findall(SPLIT, text))
    assert_both_editions_learn_alike(dict(chunks), count)


def test_the_fast_trainer_learns_what_the_plain_one_learns_from_the_source_of_this_file():
    chunks = Counter(chunk.encode() for chunk in regex.findall(SPLIT, Path(__file__).read_text("utf-8")))
    assert_both_editions_learn_alike(chunks, 500)


@pytest.mark.usefixtures("edition")
def test_merges_by_hand_with_overlaps_from_the_left():
    assert tokenizer.learn_merges({b"aaaa": 2, b"aaa": 3}, 9) == [b"aa", b"aaa", b"aaaa"]
    assert tokenizer.learn_merges({b"abab": 1, b"aba": 1, b"bab": 1}, 9) == [b"ab", b"bab", b"abab", b"aba"]
    assert tokenizer.learn_merges({b"xab": 3, b"ab": 3, b"bc": 5}, 2) == [b"ab", b"bc"]


@given(st.dictionaries(st.text("abc", max_size=40).map(str.encode), st.integers(1, 4), max_size=6))
def test_no_token_is_learnt_twice(chunks):
    learnt = tokenizer.learn_merges(chunks, 1000)
    assert len({*learnt}) == len(learnt)


@pytest.mark.usefixtures("edition")
def test_a_tie_goes_to_the_greater_pair_of_byte_strings():
    assert Tokenizer.train(["ab", "bc", "ba"], 262).tokens[256:] == [b"bc", b"ba", b"ab"]
    assert Tokenizer.train(["xab", "xa", "xa", "ab"], 260).tokens[256:] == [b"xa"]  # the more frequent first
    assert tokenizer.learn_merges({b"aab": 1, b"aa": 1, b"ab": 1}, 2) == [b"ab", b"aab"]
    assert tokenizer.learn_merges({b"ac": 1, b"abc": 1}, 3)[0] == b"bc"


@pytest.mark.usefixtures("edition")
@pytest.mark.parametrize("corpus, reached", [([], 259), ([""], 259), (["a"], 259), (["ab"], 260), (["hi hi"], 261)])
def test_training_on_tiny_text_stops_early_and_says_the_size_it_reached(corpus, reached):
    # docs/known_bugs.md: BPE training on tiny text that dies in max()
    tok = Tokenizer.train(corpus, 1000)
    assert tok.vocab_size == reached
    assert tok.decode(tok.encode("anything é")) == "anything é"


def test_training_counts_each_distinct_chunk_once():
    # docs/known_bugs.md: every chunk counted instead of every distinct one made hours of minutes
    with mock.patch("minigpt.tokenizer.learn_merges", return_value=[]) as learn_merges:
        Tokenizer.train(["low low", "lot"] * 1000, 300)
    assert learn_merges.call_args.args[0] == {b"low": 1000, b" low": 1000, b"lot": 1000}


@pytest.mark.parametrize("size", [float("nan"), float("inf"), 300.0, "300", None, [300]], ids=repr)
def test_a_vocabulary_s_size_that_is_no_whole_number_is_refused(size):
    with pytest.raises(ValueError, match=r"vocab_size=.*: must be at least 256"):
        Tokenizer.train(TEXTS, size, [])


@pytest.mark.parametrize("size, special", [(258, SPECIAL_TOKENS), (0, SPECIAL_TOKENS), (255, []), (256, ["<|x|>"])])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(size, special):
    with pytest.raises(ValueError, match=f"vocab_size={size}: must be at least {256 + len(special)}"):
        Tokenizer.train(TEXTS, size, special)


def test_the_smallest_vocabulary_is_the_bytes_and_the_special_tokens():
    assert Tokenizer.train(TEXTS, 259).vocab_size == 259


@given(st.lists(few_letters, max_size=4), st.integers(0, 12))
def test_a_tokenizer_comes_back_equal_from_its_json(corpus, merges):
    tok = Tokenizer.train(corpus, 259 + merges)
    back = from_json(to_json(tok))
    assert (back.tokens, back.special) == (tok.tokens, tok.special)


@given(text=texts)
@example(text="aaaaaaaa aaaaa aaa abababab")
def test_hugging_faces_tokenizers_agrees_on_the_ids(tok, text):
    for name in SPECIAL_TOKENS:  # that library turns them into special ids; ours never does
        text = text.replace(name, "")
    theirs = tokenizers.Tokenizer.from_str(to_json(tok))
    assert theirs.encode(text, add_special_tokens=False).ids == tok.encode(text)
    assert theirs.decode(tok.encode(text)) == text


@given(st.lists(st.text("ab", max_size=40), min_size=1, max_size=4), st.text("ab", max_size=80), st.integers(1, 40))
@example(["a" * 40], "a" * 63, 8)
@example(["ababab", "bababa", "aab"], "abaababaabab", 12)
def test_hugging_faces_tokenizers_agrees_on_repeated_letters(corpus, text, merges):
    tok = Tokenizer.train(corpus, 259 + merges)
    theirs = tokenizers.Tokenizer.from_str(to_json(tok))
    assert theirs.encode(text, add_special_tokens=False).ids == tok.encode(text)


def broken(change) -> str:
    content = json.loads(to_json(Tokenizer([*(bytes([byte]) for byte in range(256)), b"ab", b"abab"])))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        broken(lambda content: content.pop("model")),
        broken(lambda content: content.pop("added_tokens")),
        broken(lambda content: content["model"].update(vocab=[])),
        broken(lambda content: content["model"].update(vocab={"▁the": 0})),  # SentencePiece's, not bytes
        broken(lambda content: content["added_tokens"][0].pop("content")),
        broken(lambda content: content["model"]["vocab"].pop("a")),  # a byte has no id
        broken(lambda content: content["model"]["vocab"].update(ba=content["model"]["vocab"].pop("a"))),
        broken(lambda content: content["model"]["vocab"].update(ab=999)),  # ids with a hole
        broken(lambda content: content["added_tokens"][0].update(id=999)),
    ],
    ids=range(14),
)
def test_a_broken_tokenizer_json_is_refused(content):
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        from_json(content)


def test_gpt2s_vocabulary_gives_gpt2s_ids():
    try:
        tok = Tokenizer.gpt2()
    except OSError as problem:
        assert "MINIGPT_GPT2_RANKS" in str(problem)
        pytest.skip(str(problem))
    assert tok.encode("I enjoy walking with my cute dog") == [40, 2883, 6155, 351, 616, 13779, 3290]
    assert (tok.vocab_size, tok.special) == (50257, {END: 50256})


def test_another_file_in_place_of_gpt2s_ranks_is_refused(tmp_path, monkeypatch):
    ranks = tmp_path / "gpt2.tiktoken"
    monkeypatch.setenv("MINIGPT_GPT2_RANKS", str(ranks))
    with pytest.raises(FileNotFoundError, match=str(ranks)):
        Tokenizer.gpt2()
    ranks.write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(ValueError, match=f"^{ranks}: .*SHA-256 is .*, must be 306cd27f"):
        Tokenizer.gpt2()


def test_without_a_network_gpt2s_vocabulary_says_how_to_bring_it(monkeypatch):
    monkeypatch.delenv("MINIGPT_GPT2_RANKS", raising=False)
    monkeypatch.setattr("tiktoken.get_encoding", mock.Mock(side_effect=ConnectionError("no route")))
    with pytest.raises(OSError, match="MINIGPT_GPT2_RANKS=") as error:
        Tokenizer.gpt2()
    assert isinstance(error.value.__cause__, ConnectionError)


def test_a_tokenizer_without_an_end_token_says_so():
    with pytest.raises(ValueError, match=r"end='<\|endoftext\|>': must be one of the special tokens <\|x\|>"):
        _ = Tokenizer([b"a"], ["<|x|>"]).end_id


def test_every_character_that_python_knows_is_split_alike_by_both_libraries(tok):
    known = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cs", "Cn", "Co")]
    assert len(known) > 100_000
    text = "".join(f" {char}{char}a1!" for char in known)
    assert tok.encode_by_hand(text) == tok.encode(text)


# Text at its edges: encode (encode_ordinary's twin) and encode_by_hand agree on the ids, or refuse with the same word.
BYTES = [bytes([byte]) for byte in range(256)]


def outcome(encode, text: str):
    try:
        return encode(text)
    except ValueError as problem:
        return str(problem)


some_tokens = st.lists(st.text("abc", min_size=2, max_size=5).map(str.encode), max_size=12)
some_splits = st.sampled_from([SPLIT, r"(a)|b+|[^ab]+", "(?s).+", "a*|b", "[ab]", "(a", r"(?=a)|b", "ab?|."])


@given(some_tokens, st.text("abc ", max_size=40), some_splits, st.sampled_from(["", "a", "c ", "abc "]))
@example([b"abc"], "abc", SPLIT, "")  # a token that no merge makes
@example([], "baab", "a*|b", "")
@example([b"aba", b"ab"], "abab", "(?s).+", "")  # a merge makes room for one that was learnt before
@example([b"babb", b"ba", b"aaa", b"aa"], "bbbabaaaaa", "(?s).+", "")
def test_any_vocabulary_and_any_split_give_the_same_by_hand_and_fast(tokens, text, split, missing):
    single = [b"" if byte.decode("latin-1") in missing and missing else byte for byte in BYTES]
    tok = Tokenizer([*single, *dict.fromkeys(tokens)], split=split)
    expected = outcome(tok.encode_by_hand, text)
    assert outcome(tok.encode, text) == expected
    with mock.patch.object(encoding, "by_tiktoken", return_value=None):  # the heap, as for long texts
        assert outcome(tok.encode, text) == expected


@given(st.lists(few_letters, max_size=4), st.text("ab", max_size=200), st.integers(0, 40))
def test_a_heap_merges_a_chunk_as_the_plain_loop_does(corpus, text, merges):
    tok = Tokenizer.train(corpus, 259 + merges)
    assert encoding.merge_all(text.encode(), tok.ranks) == tok.encode_by_hand(text)


@pytest.mark.parametrize("text", ["\ud800", "low \udfff", "\ud83d\ude42"], ids=ascii)
def test_half_of_a_surrogate_pair_is_refused_with_its_place_by_all(tok, text):
    i = next(i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff")
    message = f"the character {text[i]!r} at place {i} is half of a surrogate pair"
    for refuse in (tok.encode, tok.encode_by_hand, lambda text: Tokenizer.train([text], 300)):
        with pytest.raises(ValueError) as error:
            refuse(text)
        assert message in str(error.value)


@pytest.mark.parametrize("tokens", [[], BYTES[:97], [*BYTES[:97], b"", *BYTES[98:]]], ids=["empty", "few", "hole"])
def test_a_character_without_a_token_is_named_with_its_place(tokens):
    tok = Tokenizer(tokens, [])
    assert tok.encode("") == tok.encode_by_hand("") == []
    before = "" if not tokens else "AB"
    for encode in (tok.encode, tok.encode_by_hand):
        with pytest.raises(ValueError, match=f"the character 'a' at place {len(before)} has no token"):
            encode(before + "a")


letters = "".join(random.Random(0).choices("lowestnr", k=1_000_000))


@pytest.mark.parametrize("text", [" " * 999_999, letters, "a" * 1_000_000, "low " + "\n " * 500_000], ids=range(4))
def test_a_megabyte_without_a_break_is_encoded_in_seconds(text):
    tok = Tokenizer.train(["low lower lowest newer aa aaaa  \n  \n "], 300)
    started = time.perf_counter()
    ids = tok.encode(text)
    assert time.perf_counter() - started < 20  # about 2 where nothing else runs; it took minutes, or failed
    assert tok.decode(ids) == text


def test_a_merge_takes_time_in_proportion_to_the_length_of_a_chunk():
    started = time.process_time()
    assert merges.learn_merges({b"ab" * 200_000: 1}, 3) == [b"ab", b"ab" * 2, b"ab" * 4]
    assert time.process_time() - started < 5  # about half a second; it took ten, four times as long for twice as much


def test_a_long_word_is_encoded_as_by_hand_and_so_is_what_stands_around_it():
    tok = Tokenizer.train(["low lower lowest, newer"], 300)
    text = f"low\n\n {letters[:10_500]}  lower"
    with mock.patch.object(encoding, "by_tiktoken", side_effect=AssertionError):
        ids = tok.encode(text)
    short = f"low\n\n {letters[:700]}  lower"
    with mock.patch.object(encoding, "LONG", encoding.re.compile(r"\S{500}")):
        assert tok.encode(short) == tok.encode_by_hand(short)
    assert ids == encoding.by_tiktoken(tok, text)


@pytest.mark.parametrize(
    "split, message",
    [
        ("(a", "not a pattern"),
        ("[ab]+", "leaves out the character 'c' at place 2"),
        ("[bc]", "leaves out the character 'a' at place 0"),
        ("[ac]", "leaves out the character 'b' at place 1"),
        ("b*|[abc]", "leaves out the character 'a' at place 0"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_alike(split, message):
    tok = Tokenizer(BYTES, split=split)
    for encode in (tok.encode, tok.encode_by_hand):
        with pytest.raises(ValueError, match=message):
            encode("abc")


def test_chosen_special_tokens_become_their_ids_and_others_stay_text(tok):
    text = f"low{END}<|prompt|>low"
    low, end = tok.encode("low"), tok.special[END]
    assert tok.encode(text, allowed_special=[END]) == [*low, end, *tok.encode("<|prompt|>low")]
    assert tok.encode(text, allowed_special={END}) == tok.encode(text, allowed_special=iter([END]))
    assert tok.encode(text, allowed_special="all") == [*low, end, tok.special["<|prompt|>"], *low]
    assert tok.encode(text) == tok.encode(text, allowed_special=()) and end not in tok.encode(text)
    for wrong in (END, ["<|x|>"]):
        with pytest.raises(ValueError, match="allowed_special="):
            tok.encode(text, allowed_special=wrong)


def test_of_two_special_tokens_that_begin_alike_the_longer_one_counts():
    tok = Tokenizer(BYTES, ["<|a", "<|a|>"])
    assert tok.encode("<|a|><|a", allowed_special="all") == [257, 256]


def test_one_text_in_place_of_several_is_refused():
    for texts, special in (("low lower", [END]), (b"low lower", [END]), (["low"], END)):
        with pytest.raises(ValueError, match="must be several; put a single one into a list"):
            Tokenizer.train(texts, 300, special)


@pytest.mark.parametrize("wrong", [None, 7, 1.5, "ab", torch.tensor(7), np.int64(7)], ids=repr)
def test_one_id_in_place_of_several_is_refused(tok, wrong):
    for use in (tok.decode, lambda ids: list(tok.decode_stream(ids)), lambda ids: Tokenizer(BYTES, end_ids=ids)):
        with pytest.raises(ValueError, match=r"ids=.*: must be several; put a single one into a list"):
            use(wrong)
    with pytest.raises(ValueError, match="start=7: must be several"):
        Tokenizer(BYTES, start=7)


@pytest.mark.parametrize("wrong", [["{{ a }}"], [{"name": "default", "template": "x"}], {"default": "x"}, 5, b"x"])
def test_a_chat_template_that_is_no_text_is_refused(wrong):
    with pytest.raises(ValueError, match=r"chat_template=.*: must be a text; of several, pass the one to use"):
        Tokenizer(BYTES, chat_template=wrong)


@pytest.mark.parametrize("wrong", [None, 3, b"low", ["low"]])
def test_what_is_no_text_is_refused_by_its_type(wrong):
    tok = Tokenizer(BYTES, [END])
    for ask in (tok.encode, tok.encode_by_hand, lambda text: Tokenizer.train(["low", text], 300)):
        with pytest.raises(ValueError, match=f"is of type {type(wrong).__name__}: must be a text"):
            ask(wrong)


def test_special_tokens_may_come_as_a_generator():
    tok = Tokenizer.train(["low"], 300, (name for name in (END, "<|x|>")))
    assert list(tok.special) == [END, "<|x|>"] and tok.special[END] == len(tok.tokens)
    assert Tokenizer(BYTES, iter([END])).special == {END: 256}


def test_an_id_in_a_hole_of_the_vocabulary_is_refused_by_name():
    tok = Tokenizer(BYTES, {END: 300})
    assert (tok.vocab_size, tok.decode([300])) == (301, END)
    with pytest.raises(ValueError, match="token id 270: no token has it"):
        tok.decode([270])


def test_ids_may_come_in_a_tensor(tok):
    ids = [*tok.encode("low"), tok.end_id]
    assert tok.decode(torch.tensor(ids)) == tok.decode(np.array(ids)) == f"low{END}"


def test_gpt2s_vocabulary_comes_from_a_copy_or_through_tiktoken(tmp_path, monkeypatch):
    ranks = tmp_path / "gpt2.tiktoken"
    ranks.write_bytes(b"".join(base64.b64encode(byte) + b" %d\n" % i for i, byte in enumerate(BYTES)))
    monkeypatch.setenv("MINIGPT_GPT2_RANKS", str(ranks))
    monkeypatch.setattr("minigpt.files.gpt2_ranks.SHA256", file_hash(ranks))
    offline = Tokenizer.gpt2()

    monkeypatch.delenv("MINIGPT_GPT2_RANKS")
    theirs = tiktoken.Encoding(
        "x", pat_str=SPLIT, mergeable_ranks={byte: i for i, byte in enumerate(BYTES)}, special_tokens={END: 256}
    )
    monkeypatch.setattr("tiktoken.get_encoding", {"gpt2": theirs}.get)
    online = Tokenizer.gpt2()
    for tok in (offline, online):
        assert (tok.tokens, tok.special, tok.start, tok.end_id) == (BYTES, {END: 256}, [], 256)


def test_a_tokenizer_shows_its_size_and_its_special_tokens(tok):
    assert repr(tok) == "<Tokenizer of 320 ids, special tokens <|endoftext|>, <|prompt|>, <|response|>>"
    assert repr(Tokenizer([b"a"], [])) == "<Tokenizer of 1 ids, special tokens none>"
