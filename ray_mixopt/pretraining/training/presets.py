"""Model shapes by name."""

from __future__ import annotations

from ray_mixopt.pretraining.settings import Shape

PRESETS: dict[str, Shape] = {
    # for CPUs and tests
    "nano": Shape(d_model=64, heads=2, layers=2),
    "micro": Shape(d_model=96, heads=3, layers=3),
    "tiny": Shape(d_model=128, heads=4, layers=4),
    # arXiv 2503.21023
    "20M": Shape(d_model=256, heads=8, layers=8),
    "60M": Shape(d_model=512, heads=8, layers=8),
    "150M": Shape(d_model=768, heads=12, layers=12),
    "300M": Shape(d_model=1024, heads=16, layers=16),
    "500M": Shape(d_model=1280, heads=16, layers=16),
    "700M": Shape(d_model=1536, heads=16, layers=16),
    "1B": Shape(d_model=2048, heads=16, layers=16),
}
"""Shapes by name. With a vocabulary of 50,257 tokens the last seven have about the parameters that they are named for,
the shared embedding matrix counted once."""
