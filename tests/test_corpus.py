"""Text files become token files piece by piece, and the ids are those of the whole text."""

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from conftest import TEXTS
from helpers import need
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt import Tokenizer, corpus, read_tokens
from minigpt.corpus import Piece, part_of, split
from minigpt.files import text_files
from minigpt.files.text_files import cut_documents, read_corpus
from minigpt.files.tokenizer_json import SPLIT_DIGITS
from minigpt.tokenizer import END, SPLIT
from scripts.support.pretraining import prepare

ROOT = Path(__file__).parent.parent
# Llama 3's, in which a sign keeps the line ends behind it.
SPLIT_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
snippets = ["it's", " we'll", "'", "  ", "\n\n", " \n", "4,200.5", "，", "你好。", "é🙂", "low", " lower", "_x"]
some_text = st.lists(st.one_of(st.sampled_from(snippets), st.text("ab1 \n.'", max_size=6)), max_size=30).map("".join)


def whole_documents(text: str) -> list[str]:
    """What a corpus holds, told simply: cut at the separator, line ends taken off, blank documents left out."""
    return [document.strip("\r\n") for document in text.split(END) if document.strip()]


def joined(pieces) -> list[str]:
    documents = []
    for piece in pieces:
        if piece.begins:
            documents.append("")
        documents[-1] += piece.text
    return documents


@given(st.lists(some_text, max_size=4).map(END.join), st.integers(1, 30))
@example("\n\n\nlow lower\n\n" + END + "low  \n", 4)
@example("a b\n\n", 1)
def test_pieces_join_to_the_documents_however_a_file_is_read(text, block):
    blocks = [text[i : i + block] for i in range(0, len(text), block)]
    with mock.patch("minigpt.files.text_files.BLOCK", block):
        assert joined(cut_documents(blocks)) == whole_documents(text)


@pytest.mark.parametrize("split", [SPLIT, SPLIT_DIGITS, SPLIT_LLAMA], ids=["gpt2", "smollm2", "llama3"])
@given(text=some_text, block=st.integers(1, 30))
@example(text="low lower, lowest", block=3)
@example(text="low.\nlow'\nlow..low,.low", block=1)
@example(text="a.\n", block=1)
@example(text="a..", block=1)
@example(text="a'\n", block=1)
@example(text=" ".join(TEXTS), block=20)
def test_the_ids_of_a_long_document_cut_in_pieces_are_those_of_the_whole(split, text, block):
    across = [b".\n", b"'\n", b"..", b",."]  # a wrong cut would keep one of these from being made
    tok = Tokenizer([*Tokenizer.train(TEXTS, 300).tokens, *across], split=split)
    with mock.patch("minigpt.files.text_files.BLOCK", block):
        pieces = list(cut_documents([text[i : i + block] for i in range(0, len(text), block)]))
    assert [i for piece in pieces for i in tok.encode(piece.text)] == [
        i for document in whole_documents(text) for i in tok.encode(document)
    ]


def test_a_long_document_is_never_held_whole():
    for text in (" lower, low", "你好，你好。\n"):
        pieces = list(cut_documents(text * 1000 for _ in range(100)))
        assert len(pieces) > 1
        assert max(len(piece.text) for piece in pieces) <= 2 * text_files.BLOCK


def split_in_memory(documents: list[str]) -> tuple[list[str], list[str]]:
    """What `split` says, for documents that are all in memory: training and validation text."""
    if len(documents) >= 20:
        border = len(documents) - len(documents) // 20
        return documents[:border], documents[border:]
    borders = [len(document) * 9 // 10 for document in documents]
    return [d[:b] for d, b in zip(documents, borders)], [d[b:] for d, b in zip(documents, borders)]


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 45])
@given(text=st.text("ab ", min_size=2, max_size=30), block=st.integers(1, 12))
def test_a_split_is_the_same_whether_documents_come_whole_or_in_pieces(count, text, block):
    written = [f"{text}x{i}" for i in range(count)]
    with mock.patch("minigpt.files.text_files.BLOCK", block):
        pieces = list(cut_documents(iter(END.join(written))))
    documents = whole_documents(END.join(written))
    for part, expected in zip(("train", "val"), split_in_memory(documents)):
        assert joined(part_of(pieces, split(pieces), part)) == expected
        whole = [Piece(document) for document in documents]
        assert list(part_of(whole, split(whole), part)) == [Piece(text) for text in expected]


def test_a_file_cut_in_pieces_gives_the_token_files_of_the_whole_text(tmp_path, monkeypatch):
    text = " ".join(TEXTS) * 30
    (tmp_path / "text.txt").write_text(text + END + text[::-1], encoding="utf-8")
    written = []
    for name, block in (("whole", 10**6), ("pieces", 100)):
        monkeypatch.setattr(text_files, "BLOCK", block)
        texts = read_corpus([str(tmp_path / "*.txt")])
        assert all(piece.begins for piece in texts) == (name == "whole")
        tok = prepare(texts, tmp_path / "made" / name, 400, 16)
        ids = [read_tokens(tmp_path / "made" / name / f"{part}.npy").tolist() for part in ("train", "val")]
        written.append((tok.tokens, ids))
    assert written[0] == written[1]
    documents = split_in_memory(whole_documents(text + END + text[::-1]))[0]
    assert ids[0] == [tok.end_id, *(i for d in documents for i in [*tok.encode(d), tok.end_id])]


def test_the_tokenizer_of_a_large_corpus_learns_from_a_sample_and_says_so(tmp_path, monkeypatch, capsys):
    documents = [f"{word} " * 20 for word in ("low", "new", "old", "lot") for _ in range(25)]
    monkeypatch.setattr(corpus, "SAMPLE", 2_000)
    seen = []
    train = lambda texts, size: seen.extend(texts) or Tokenizer([bytes([byte]) for byte in range(256)])
    monkeypatch.setattr(Tokenizer, "train", train)
    prepare([*map(Piece, documents)], tmp_path, 300, 16)
    assert seen == documents[:95:4]
    assert "7,600 characters to train on; the tokenizer learns from every 4th piece" in capsys.readouterr().out


@pytest.mark.parametrize("before", ["", "é" * 70_000, "\ufeff" + "a " * 99_999], ids=["first", "later block", "marked"])
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path, before):
    content = before.encode() + b"\xff rest"
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.txt: not UTF-8 text, byte {len(before.encode())} is 0xff"):
        list(read_corpus([str(tmp_path / "a.txt")]))


def test_a_preparation_that_fails_leaves_no_half_written_file_and_no_word_of_success(tmp_path, monkeypatch, capsys):
    def encode(self, text: str) -> list[int]:
        if "z" in text:
            raise OSError("no space left on device")
        return list(text.encode())

    monkeypatch.setattr(Tokenizer, "encode", encode)
    with pytest.raises(OSError, match="no space"):
        prepare([*[Piece("low lower lowest")] * 15, Piece("z"), *[Piece("low lower")] * 15], tmp_path, 300, 8)
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_lengths_are_added_up_over_the_pieces_of_a_document():
    assert list(split([Piece("abcde"), Piece("fghij", begins=False), Piece("k" * 20)])) == [9, 18]


def test_a_part_shorter_than_one_context_is_refused_before_anything_is_written(tmp_path):
    documents = [Piece("low lower lowest, newer and newest")]
    with pytest.raises(ValueError, match="the validation text has 4 tokens, fewer than one context of 16"):
        prepare(documents, tmp_path / "run", 259, 16)
    assert not (tmp_path / "run").exists()


def test_text_without_a_place_to_cut_is_read_in_linear_time():
    def seconds(blocks: int) -> float:
        started = time.perf_counter()
        (piece,) = cut_documents("a" * text_files.BLOCK for _ in range(blocks))
        assert len(piece.text) == blocks * text_files.BLOCK
        return time.perf_counter() - started

    assert seconds(160) < 15  # 10 MB, in about half a second where nothing else runs; the old scan took minutes


LARGE = r"""
import re, sys, time
from minigpt import Tokenizer
from minigpt.corpus import split
from minigpt.files.text_files import read_corpus
from scripts.support.token_files import write_token_files
from pathlib import Path

corpus, started = read_corpus([sys.argv[1]]), time.process_time()
tok = Tokenizer.train(["low lower lowest newer new 12 34."], 300)
write_token_files(Path(sys.argv[1]).parent, tok, corpus, split(corpus))
print(time.process_time() - started, re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_a_document_of_50_megabytes_takes_linear_time_and_no_more_memory_than_a_small_one(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux, which tells the peak of a program; ru_maxrss would count its parent's memory too")
    line = "the lowest of the low, 12,345 newer ones; they're the best\n"
    found = []
    for size in (5, 50):
        path = tmp_path / f"{size}.txt"
        path.write_text(line * (size * 1_000_000 // len(line)))
        said = subprocess.run([sys.executable, "-c", LARGE, path], capture_output=True, text=True, check=True, cwd=ROOT)
        found.append([float(number) for number in said.stdout.split()])
        assert len(read_tokens(tmp_path / "train.npy")) > size * 400_000
    (few_seconds, little), (seconds, memory) = found
    assert seconds < 20 * few_seconds and seconds < 200
    assert memory - little < 30_000  # kB: an eighth of what the ids alone would take as a list


@given(st.lists(st.sampled_from(["aaaaaaa", "<|endof", "text|>", " b", "\n"]), max_size=30), st.integers(1, 40))
def test_a_separator_is_found_in_text_without_a_place_to_cut(parts, block):
    text = "".join(parts)
    with mock.patch("minigpt.files.text_files.BLOCK", block):
        found = joined(cut_documents(text[i : i + block] for i in range(0, len(text), block)))
    assert found == whole_documents(text)


def test_a_file_is_found_by_its_name_before_it_is_read_as_a_pattern(tmp_path):
    for name in ("[EN] book.txt", "E book.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert [piece.text for piece in read_corpus([tmp_path / "[EN] book.txt"])] == ["[EN] book.txt"]
    assert [piece.text for piece in read_corpus([str(tmp_path / "[EF] book.txt")])] == ["E book.txt"]
    assert len(list(read_corpus([str(tmp_path / "*.txt")]))) == 2


def test_an_empty_file_is_named(tmp_path):
    for name, content in (("a.txt", ""), ("b.txt", "\n\n"), ("c.txt", END)):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}: the file is empty, it must hold text"):
            list(read_corpus([tmp_path / name]))
    (tmp_path / "d.txt").write_text("low")
    assert [piece.text for piece in read_corpus([tmp_path / "d.txt"])] == ["low"]


def test_what_is_no_file_or_a_single_name_is_refused(tmp_path):
    need(os, "mkfifo")(tmp_path / "pipe")
    for wrong in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=f"^{wrong}: must be a file"):
            read_corpus([wrong])
    with pytest.raises(ValueError, match="must be several; put"):
        read_corpus(str(tmp_path / "a.txt"))
