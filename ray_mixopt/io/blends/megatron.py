"""Blends of the Megatron family: Megatron-LM, NeMo with Megatron-Bridge, Energon."""

from __future__ import annotations

from collections.abc import Mapping

from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends.base import Sources, pieces, quoted, unresolved


def megatron(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """Weights and prefixes of datasets in turn, as ``--data-args-path`` reads them from a file.

    Raises:
        ValueError: for a prefix that the arguments of a command could not hold.
    """
    found = pieces(shares, sources)
    for domain, path in ((piece.domain, piece.path) for piece in found):
        if path.split() != [path] or path.startswith("-"):
            what = "domain" if path == domain and domain not in sources.paths else f"path of the domain {domain!r},"
            raise ValueError(
                f"Megatron-LM splits its list at blanks and takes a leading '-' for an option: the {what} {path!r} "
                "cannot stand in it; give the data a path without them."
            )
        quoted(path)  # raises for what no file can hold
    return "".join(f"{piece.weight} {piece.path}\n" for piece in found)


def nemo(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """YAML of ``dataset.blend`` in a configuration of Megatron-Bridge: the list of prefixes, and that of weights."""
    found = pieces(shares, sources)
    prefixes = "".join(f"      - {quoted(unresolved(piece.path))}\n" for piece in found)
    weights = ", ".join(piece.weight for piece in found)
    return f"dataset:\n  blend:\n    -\n{prefixes}    - [{weights}]\n"


def energon(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """YAML of an Energon metadataset with a blend for training; paths are relative to the file."""
    lines = ["__module__: megatron.energon", "__class__: MetadatasetV2", "splits:", "  train:", "    blend:"]
    for piece in pieces(shares, sources):
        lines += [f"      - weight: {piece.weight}", f"        path: {quoted(piece.path)}"]
    return "\n".join(lines) + "\n"
