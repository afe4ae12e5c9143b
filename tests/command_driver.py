"""``ray-mixopt search`` on a small Ray, in a process of its own: ``command_driver.py ARGUMENTS...``."""

from __future__ import annotations

import sys

import ray
from small_ray import start_ray

from ray_mixopt.cli.main import main

if __name__ == "__main__":
    start_ray("ray_mixopt.command.trainable", slots=2)
    try:
        sys.argv = ["ray-mixopt", "search", *sys.argv[1:]]
        main()
    finally:
        ray.shutdown()
