"""How fast documents become tokens: ``prepare`` beside a plain script of the ``tokenizers`` library, in turns.

From the root of the repository:

    python experiments/pretraining/prepare_speed.py --processes 2 --rounds 3

The documents are the texts of the demo corpus, as JSON lines in files of a few megabytes. The plain script reads lines,
encodes them in batches in as many processes, and writes the ids: no checks, no checksums, no choice of validation
documents, nothing to go on from. Both start their processes anew each time, and have the same tokenizer file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from ray_mixopt.benchmark.record import commit, machine, versions
from ray_mixopt.pretraining.data.demo import write_demo
from ray_mixopt.pretraining.data.documents import read
from ray_mixopt.pretraining.data.manifest import Manifest
from ray_mixopt.pretraining.data.tokenizer import train_bpe

PLAIN = Path(__file__).with_name("plain_tokens.py")


@click.command()
@click.option("--processes", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--megabytes", default=3.0, show_default=True, help="Of each of the five domains.")
@click.option("--vocabulary", default=32_000, show_default=True)
def main(processes: int, rounds: int, megabytes: float, vocabulary: int) -> None:
    """Measures both in turns, and prints megabytes of text a second, as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = write_demo(folder / "demo", megabytes, lambda domain: None)
        files = [Path(path) for paths in demo.values() for path in paths]
        texts = [
            text for path in files for source in (path.rglob("*") if path.is_dir() else [path]) for text in read(source)
        ]
        (folder / "in").mkdir()
        n_bytes = sum(len(text.encode()) for text in texts)
        each = len(texts) // 16 + 1
        for number, start in enumerate(range(0, len(texts), each)):
            lines = (json.dumps({"text": text}) + "\n" for text in texts[start : start + each])
            (folder / "in" / f"{number:02d}.jsonl").write_text("".join(lines))
        train_bpe(texts[:: len(texts) // 2000 + 1], vocabulary, folder / "bpe.json")
        seconds: dict[str, list[float]] = {"plain": [], "prepare": []}
        of_cpu: dict[str, list[float]] = {"plain": [], "prepare": []}
        for turn in range(rounds):
            for which in ("plain", "prepare") if turn % 2 else ("prepare", "plain"):
                for found, value in zip((seconds, of_cpu), measured(which, folder, turn, processes), strict=True):
                    found[which].append(value)
                click.echo(f"{which}: {n_bytes / seconds[which][-1] / 1e6:.2f} MB/s", err=True)
        domain = Manifest.read(folder / "prepare-0").domains["all"]
        result = {
            "bytes": n_bytes,
            "documents": len(texts),
            "tokens": domain.train.tokens + domain.val.tokens,
            "processes": processes,
            "seconds": seconds,
            "megabytes_per_second": {which: n_bytes / float(np.median(s)) / 1e6 for which, s in seconds.items()},
            "cpu_seconds": of_cpu,
            "speed_of_prepare_over_plain": ratios(seconds),
            "the_same_by_cpu_seconds": ratios(of_cpu),
        }
        click.echo(json.dumps(result | {"commit": commit(), "machine": machine(), "versions": versions()}, indent=1))


def ratios(seconds: dict[str, list[float]]) -> list[float]:
    """How many times as fast ``prepare`` was, by round."""
    return [one / other for one, other in zip(seconds["plain"], seconds["prepare"], strict=True)]


def measured(which: str, folder: Path, turn: int, processes: int) -> tuple[float, float]:
    """Seconds of one of the two, from the start of its program to the end: by the clock, and of all its processes."""
    out = folder / f"{which}-{turn}"
    out.mkdir()
    program, source = Path(sys.executable).with_name("ray-mixopt"), folder / "in"
    commands: dict[str, Sequence[object]] = {
        "plain": [PLAIN, source, folder / "bpe.json", out, processes],
        "prepare": [
            *(program, "prepare", out, "--domain", f"all={source}"),
            *("--tokenizer", folder / "bpe.json", "--workers", processes),
        ],
    }
    begun, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *map(str, commands[which])], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, used


if __name__ == "__main__":
    main()
