"""Writes conversations.json beside this file: conversations with the edges of the format (empty answers, the end token
and the template's marks inside texts, image marks anywhere, white space, a cut inside an answer), and the ids and
labels that the published template code gives for them, cut as the published data set cuts them. Nothing of that code is
here: it is imported from a checkout of github.com/TinyLLaVA/TinyLLaVA_Factory.

    python3 make_conversations.py CHECKOUT      needs numpy, tokenizers (0.23.3)
"""
import importlib
import json
import os
import random
import sys
import time
import types

import numpy as np
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = ["a red ball", "no", "", " ", "What is it?", "<image>", "<image>\n", "\n<image>", " <image> ", "two\nlines", "ASSISTANT:",
         " ASSISTANT: ", "USER: ", "<|endoftext|>", "  spaces  ", "\t", "é über", "日本語", "🙂", "12345", "it's", ".", "ASSISTANT", "x" * 40]


class Tensor(np.ndarray):
    def ne(self, value):
        return self != value


def shims():
    """The modules that the template code imports, as far as it uses them."""
    torch = types.ModuleType("torch")
    torch.long = np.int64
    torch.tensor = lambda values, dtype: np.array(values, dtype=dtype).view(Tensor)
    transformers = types.ModuleType("transformers")
    transformers.PreTrainedTokenizer = object
    sys.modules.update(torch=torch, transformers=transformers)


def published_template(checkout):
    shims()
    for name in ("tinyllava", "tinyllava.data", "tinyllava.data.template", "tinyllava.utils"):
        module = types.ModuleType(name)
        module.__path__ = [os.path.join(checkout, *name.split("."))]
        sys.modules[name] = module
    sys.modules["tinyllava.data.template"].register_template = lambda name: lambda cls: cls
    formatter = importlib.import_module("tinyllava.data.template.formatter")
    for kind in (formatter.StringFormatter, formatter.EmptyFormatter):
        kind.__hash__ = object.__hash__  # newer Pythons refuse defaults of a class without it
    time.sleep = lambda seconds: None  # it waits after each warning
    return importlib.import_module("tinyllava.data.template.phi_template").PhiTemplate()


class PhiTokenizer:
    """What the code asks of Phi's tokenizer: all its special tokens are the end of text."""

    def __init__(self, path, max_length):
        self.inner = Tokenizer.from_file(path)
        self.pad_token_id = self.eos_token_id = self.bos_token_id = self.inner.token_to_id("<|endoftext|>")
        self.model_max_length = max_length

    def encode(self, text):
        return self.inner.encode(text).ids

    def __call__(self, text):
        return types.SimpleNamespace(input_ids=self.encode(text))


def some_text(rng, pieces):
    return rng.choice(["", " "]).join(rng.choice(WORDS) for _ in range(rng.randint(0, pieces)))


def cases(rng, count):
    for i in range(count):
        turns = []
        plain = rng.random() < 0.5  # half of them without the marks that stop a sample from being learnt from
        for t in range(rng.randint(1, 4)):
            texts = [some_text(rng, 4), some_text(rng, 5)]
            if plain:
                for mark in ("ASSISTANT:", "<|endoftext|>"):
                    texts = [text.replace(mark, "") for text in texts]
            if t > 0 or rng.random() < 0.5:
                texts[0] = texts[0].replace("<image>", "")
            turns.append([texts[0], texts[1].replace("<image>", "")])
        yield turns, rng.choice([2048, 2048, rng.randint(20, 120)])


def main():
    template = published_template(sys.argv[1])
    path = os.path.join(HERE, "..", "tokenizer", "codegen.json")
    rng = random.Random(5)
    out, learnt = [], 0
    for turns, max_length in cases(rng, 160):
        messages = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn)]
        sys.stdout = open(os.devnull, "w")
        made = template.encode(messages, PhiTokenizer(path, max_length))
        sys.stdout = sys.__stdout__
        # As the published collator cuts a batch.
        ids, labels = (made[k][:max_length].tolist() for k in ("input_ids", "labels"))
        # Runs of labels: places that are learnt from, as [begin, end).
        learned = [i for i, label in enumerate(labels) if label != -100]
        assert all(labels[i] == ids[i] for i in learned)
        runs = []
        for i in learned:
            if runs and runs[-1][1] == i:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
        learnt += bool(runs)
        out.append({"turns": turns, "max_length": max_length, "ids": ids, "learnt": runs})
    with open(os.path.join(HERE, "conversations.json"), "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in out) + "\n]\n")
    print(len(out), "conversations,", learnt, "with labels")


if __name__ == "__main__":
    main()
