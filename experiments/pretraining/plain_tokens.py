"""A script that only tokenizes JSON lines, in several processes; ``prepare_speed.py`` measures it.

python plain_tokens.py FOLDER TOKENIZER OUT PROCESSES
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

END = "<|endoftext|>"


def tokenize(source: Path, tokenizer: Path, target: Path) -> int:
    """Writes the ids of a file's documents, and returns how many."""
    made, n_tokens = Tokenizer.from_file(str(tokenizer)), 0
    end = made.token_to_id(END)
    with source.open() as file, target.open("wb") as out:
        texts = (json.loads(line)["text"] for line in file)
        while batch := list(itertools.islice(texts, 256)):
            for one in made.encode_batch_fast(batch, add_special_tokens=False):
                np.array([*one.ids, end], dtype=np.uint16).tofile(out)
                n_tokens += len(one.ids) + 1
    return n_tokens


def main() -> None:
    """Does all files of a folder."""
    folder, tokenizer, out, processes = *map(Path, sys.argv[1:4]), int(sys.argv[4])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    jobs = [(path, tokenizer, out / f"{path.stem}.bin") for path in sorted(folder.glob("*.jsonl"))]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        print(sum(pool.starmap(tokenize, jobs, chunksize=1)))


if __name__ == "__main__":
    main()
