"""Run by torchrun from a test: trains in one go and in two parts, in the ways that its last argument says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist
from runs import run_in, same, timeless, tiny_run

from ray_mixopt.pretraining.training.workers import Workers, torchrun_group

if __name__ == "__main__":
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    with torchrun_group() as device:
        workers = Workers.current(device)
        for label, execution in json.loads(sys.argv[3]).items():
            for accumulate, anneal in ((1, None), (2, None), (2, {"share": 0.34})):
                changes = {"execution": {"micro_batch": 2 // accumulate} | execution, "anneal": anneal}
                name = f"{label}-{accumulate}" + ("-annealed" if anneal else "")
                whole = run_in(out / f"{name}-whole", tiny_run(data, steps=9, **changes), workers)
                parts = [
                    report
                    for steps in (3, 9)
                    for report in run_in(out / f"{name}-parts", tiny_run(data, steps=steps, **changes), workers)
                ]
                dist.barrier()
                if workers.rank == 0:
                    equal = same(out / f"{name}-whole", out / f"{name}-parts") and timeless(whole) == timeless(parts)
                    print(name, "equal" if equal else "DIFFERENT", whole[-1]["val_loss/a"], len(whole), flush=True)
