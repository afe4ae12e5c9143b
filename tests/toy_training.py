"""A training script as a team may have it: a blend in, checkpoints in a folder, rows of a shared table out."""

import argparse
import csv
import fcntl
import json
import math
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("run", "blend", "scale", "folder", "table"):
    parser.add_argument(f"--{name}", required=True)
for name in ("steps", "from-step", "seed"):
    parser.add_argument(f"--{name}", type=int, required=True)
args = parser.parse_args()

SIZES = {"60M": 60e6, "400M": 400e6}
BEST = {"web": 0.55, "code": 0.30, "math": 0.15}
RUNGS = (500, 1000, 2000)

mixture = json.loads(Path(args.blend).read_text())
checkpoint = Path(args.folder) / "checkpoint.json"
if args.from_step:
    assert json.loads(checkpoint.read_text())["step"] == args.from_step, "this is not where the run stopped"


def loss(step: int) -> float:
    """Falls with size and length; what a mixture costs besides is the distance from the best one."""
    missed = sum((mixture[name] - share) ** 2 for name, share in BEST.items())
    noise = 0.001 * math.sin(12.9898 * args.seed + 78.233 * step)
    return 2.0 + 400.0 / SIZES[args.scale] ** 0.34 + 3.0 / step**0.4 + 0.5 * missed + noise


with open(args.table, "a", newline="") as table:
    fcntl.flock(table, fcntl.LOCK_EX)
    writer = csv.writer(table)
    if not table.tell():
        writer.writerow(["run", "scale", "step", *(f"mixture/{name}" for name in mixture), "loss"])
    for step in (rung for rung in RUNGS if args.from_step < rung <= args.steps):
        writer.writerow([args.run, args.scale, step, *mixture.values(), loss(step)])
checkpoint.write_text(json.dumps({"step": args.steps}))
