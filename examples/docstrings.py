"""Pairs of a docstring and the function it stands in, from the running Python's own standard library."""

import ast
import sysconfig
import textwrap
import warnings
from collections import Counter
from pathlib import Path

import encoder
import numpy as np
import text

PARTS = ("train", "held out")


def read_pairs(root=None):
    """``{"train": [(docstring, function), ...], "held out": ...}``; the parts share no module."""
    root = Path(root or sysconfig.get_paths()["stdlib"])
    pairs = {part: [] for part in PARTS}
    for path in text.source_files(root):
        found = functions((root / path).read_text(encoding="utf-8", errors="replace"))
        pairs[PARTS[text.held_out(path, every=8)]] += found
    # What several functions say of themselves finds none of them.
    times = Counter(words for part in PARTS for words, _ in pairs[part])
    return {part: [pair for pair in pairs[part] if times[pair[0]] == 1] for part in PARTS}


def functions(source):
    """The pairs of one module: a docstring's first paragraph, and the function's source without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return []
    lines, pairs = source.splitlines(), []
    for node in nodes:
        words = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node)
        if not words or len(node.body) == 1:
            continue
        first = " ".join(words.split("\n\n")[0].split())
        code = (
            lines[node.lineno - 1 : node.body[0].lineno - 1]
            + lines[node.body[0].end_lineno : node.end_lineno]
        )
        if len(first.split()) >= 4:
            pairs.append((first, textwrap.dedent("\n".join(code))))
    return pairs


def tokenized(pairs, settings):
    columns = zip(*pairs, strict=True)
    lengths = settings["docstring_length"], settings["code_length"]
    ids = [encoder.tokens(texts, length) for texts, length in zip(columns, lengths, strict=True)]
    return dict(zip(("docstring", "code"), ids, strict=True))


def token_ids(settings, seed):
    """Token ids of the pairs to train on, in the order of use, and of the held-out ones."""
    pairs = read_pairs()
    batch, generator = settings["batch"], np.random.default_rng(seed)
    count = settings["steps"] * batch
    rounds = 1 + count // len(pairs["train"])
    chosen = np.concatenate([generator.permutation(len(pairs["train"])) for _ in range(rounds)])[:count]
    count = min(settings["evaluate"], len(pairs["held out"])) // batch * batch
    held_out = [pairs["held out"][i] for i in np.linspace(0, len(pairs["held out"]) - 1, count).astype(int)]
    print(
        f"{len(pairs['train'])} pairs to train on, {count} of {len(pairs['held out'])} held-out ones to find"
    )
    return tokenized([pairs["train"][i] for i in chosen], settings), tokenized(held_out, settings)
