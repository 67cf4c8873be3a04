#!/usr/bin/env python3
"""Compares ids and decoded texts with Hugging Face tokenizers on random texts in many scripts, and the speed on one core.

Usage: tokenizer_peer.py TOKENIZER_MAIN FOLDER [--texts N] [--seed S] [--speed TEXTFILE ...]
FOLDER: every *.json in it that is a tokenizer is compared. Exit code 77 without the package `tokenizers`.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
try:
    from tokenizers import Tokenizer
except ImportError:
    print("skipped: this Python has no package `tokenizers`")
    sys.exit(77)

# Blocks whose characters texts are made of, besides any assigned one.
SCRIPTS = [(0x20, 0x7E), (0xA1, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F),
           (0x591, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF),
           (0xE01, 0xE5B), (0xF00, 0xFD4), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137C),
           (0x13A0, 0x13F4), (0x1780, 0x17F9), (0x1E00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x20BF), (0x2100, 0x218B),
           (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x3000, 0x30FF), (0x3131, 0x318E), (0x4E00, 0x9FA5),
           (0xAC00, 0xD7A3), (0xF900, 0xFAD9), (0xFB00, 0xFDFF), (0xFE20, 0xFEFF), (0xFF00, 0xFFEF),
           (0x10330, 0x1034A), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1D)]
WORDS = ("the of and a to in is you that it he was for on are as with his they I at be this have from or one had by word "
         "but not what all were we when your can said there use an each which she do how their if will up other about out "
         "many then them these so some her would make like him into time has look two more write go see number no way "
         "could people my than first water been call who its now find long down day did get come made may part I'm don't "
         "we'll they've you're he'd it's DON'T I'LL rock'n'roll 'tis").split()
ENDS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'\u017f", "\u2019s", "''", "'", "'x"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2003", "\u2028", "\x0b", "\x85",
          "\x1c", "\u200b", " " * 9, "\t\t\t", " \t "]


def assigned():
    return [chr(c) for c in range(0x110000)
            if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs")]


def piece(rng, characters, added):
    kind = rng.randrange(14)
    if kind < 4:
        return rng.choice(["", " ", " ", " "]) + rng.choice(WORDS)
    if kind == 4:
        return rng.choice(SPACES)
    if kind == 5:
        return "".join(rng.choice("0123456789") for _ in range(rng.randrange(1, 12)))
    if kind == 6:
        return rng.choice(ENDS)
    if kind == 7:
        return "".join(rng.choice(".,;:!?-_()[]{}<>/\\|@#$%^&*+=~`\"'") for _ in range(rng.randrange(1, 6)))
    if kind == 8 and added:
        return rng.choice(added)[:rng.choice([99, 99, 99, 5])]
    if kind == 9:
        return "".join(rng.choice(characters) for _ in range(rng.randrange(1, 6)))
    low, high = rng.choice(SCRIPTS)
    run = [c for c in (chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 9))) if unicodedata.category(c) != "Cn"]
    if kind == 10:  # marks in any order behind letters
        run = [x for c in run for x in (c, *(chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randrange(0, 3))))]
    text = "".join(run)
    return unicodedata.normalize("NFD", text) if kind == 11 else text


def make_texts(count, seed, added):
    rng = random.Random(seed)
    characters = assigned()
    out = []
    for i in range(count):
        size = 1 + min(rng.randrange(40), rng.randrange(40))
        if i % 2000 == 0:
            size = 2000
        out.append("".join(piece(rng, characters, added) for _ in range(size)))
    return out


def write_lines(texts):
    file = tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False, encoding="utf-8")
    with file:
        for text in texts:
            file.write(json.dumps(text, ensure_ascii=False) + "\n")
    return file.name


def compare(program, path, count, seed):
    peer = Tokenizer.from_file(path)
    document = json.load(open(path, encoding="utf-8"))
    added = [t["content"] for t in document.get("added_tokens") or []]
    texts = make_texts(count, seed, added)
    lines = write_lines(texts)
    try:
        done = subprocess.run([program, "ids", path, lines], capture_output=True, check=False)
        if done.returncode != 0:
            print(path + ": " + done.stderr.decode())
            return 1
    finally:
        os.unlink(lines)
    found = done.stdout.decode().split("\n")[:-1]
    assert len(found) == len(texts), (len(found), len(texts))
    wrong = 0
    tokens = 0
    # Their decoder loses added tokens outside ASCII; the texts of other tokenizers are compared too.
    decodes = all(t.isascii() for t in added)
    for text, line in zip(texts, found):
        ids, decoded = line.split("\t")
        expected = peer.encode(text, add_special_tokens=False).ids
        tokens += len(expected)
        same = json.loads(ids) == expected
        if same and decodes:
            same = json.loads(decoded) == peer.decode(expected, skip_special_tokens=False)
        if not same:
            wrong += 1
            if wrong <= 3:
                print(f"{path}: {text!r}\n  found    {ids}\n  expected {expected}")
    print(f"{os.path.basename(path)}: {count} texts, {tokens} tokens, {wrong} differ")
    return wrong


def speed(program, path, files):
    texts = [t for f in files for t in open(f, encoding="utf-8", errors="replace").read().split("\n\n") if t]
    lines = write_lines(texts)
    done = subprocess.run([program, "speed", path, lines], capture_output=True, check=True)
    os.unlink(lines)
    peer = Tokenizer.from_file(path)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        tokens = sum(len(e.ids) for e in peer.encode_batch_fast(texts, add_special_tokens=False))
        best = min(best, time.perf_counter() - start)
    size = sum(len(t.encode()) for t in texts)
    print(f"{os.path.basename(path)}: {size / 1e6:.1f} MB; here {done.stdout.decode().strip()}; "
          f"there {size / best / 1e6:.2f} MB/s {tokens} tokens")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("--texts", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", nargs="*", default=[])
    args = parser.parse_args()
    wrong = 0
    for name in sorted(os.listdir(args.folder)):
        path = os.path.join(args.folder, name)
        if not name.endswith(".json") or name == "cases.json":
            continue
        if args.speed:
            speed(args.program, path, args.speed)
        else:
            wrong += compare(args.program, path, args.texts, args.seed)
    sys.exit(1 if wrong else 0)


main()
