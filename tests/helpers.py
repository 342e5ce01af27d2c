"What several test files share: the rule for errors, the place of real data, examples, toy classes and rows, a look at imports."
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resynth.profiles import ResynthError, repo_root
from resynth.tasks import Example

DATA = Path(os.environ.get("RESYNTH_DATA") or repo_root().parent / "shared" / "data")  # real datasets, where there are any
FRAMEWORKS = ("torch", "transformers", "peft", "sklearn", "datasets", "faiss", "spacy")
TOYS = dict(animals="cat dog horse sheep".split(), food="bread soup apple cheese".split(), tools="hammer saw drill nail".split())


def fails(call, *parts):
    "A call must end in a ResynthError of one line that holds every part."
    with pytest.raises(ResynthError) as caught: call()
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text, f"more than one plain line: {text}"
    for part in parts: assert part in text, f"'{part}' is not in: {text}"


def make_examples(pairs):
    "Examples from pairs of question and answer, numbered from 0."
    return [Example(id=str(i), question=question, answer=answer) for i, (question, answer) in enumerate(pairs)]


def encode_letters(texts):
    "Unit rows from counts of letters, where a test needs rows and no meaning."
    rows = np.array([[t.count(c) + 0.1 for c in "aeiourst"] for t in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def frameworks_of(*modules, then=""):
    "The large frameworks that a fresh Python has loaded after importing some modules, and running some code."
    code = f"import sys, {', '.join(modules)}\n{then}\nprint([name for name in {FRAMEWORKS} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
