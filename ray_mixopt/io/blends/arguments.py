"""Blends for programs that are configured in Python: plain shares, and keyword arguments as JSON.

JSON, not Python: a file that says weights should not be able to run. What a program calls its arguments, the file
calls them, too; docs/how-to/blend.md has the lines that read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.io.blends.base import Sources, Stage, decimal, pieces, quoted, yaml_key


def json_text(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """One JSON object, ``{domain: share}``, of all domains, those without a share too; sources are not for it."""
    return f"{{\n{_lines(shares, 2)}\n}}\n"


def yaml_text(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """The same as YAML, one line a domain, with names in quotes so that ``no`` and ``1`` stay names."""
    return "".join(f"{yaml_key(domain)}: {decimal(share)}\n" for domain, share in shares.items())


def json_schedule(stages: Sequence[Stage], sources: Sources) -> str:
    """One JSON object, ``{phase: {domain: share}}``, of the phases that are to be trained."""
    ahead = [stage for stage in stages if not stage.trained]
    each = [f"  {quoted(stage.phase)}: {{\n{_lines(stage.shares, 4)}\n  }}" for stage in ahead]
    return "{\n" + ",\n".join(each) + "\n}\n"


def yaml_schedule(stages: Sequence[Stage], sources: Sources) -> str:
    """The same as YAML."""
    return "".join(
        f"{yaml_key(stage.phase)}:\n"
        + "".join(f"  {yaml_key(domain)}: {decimal(share)}\n" for domain, share in stage.shares.items())
        for stage in stages
        if not stage.trained
    )


def torchtitan(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """``sources`` of an ``InterleavedHuggingFaceTextDataLoader.Config``: arguments of an ``HFDataSource`` each.

    ``dataset`` is the name under which the program knows how to read it, ``dataset_path`` is there where a path is.

    Raises:
        ValueError: for domains that differ only in capitals, which torchtitan does not heed.
    """
    known: dict[str, str] = {}
    items = []
    for piece in pieces(shares, sources):
        if (other := known.setdefault(piece.domain.lower(), piece.domain)) != piece.domain:
            raise ValueError(
                f"torchtitan knows datasets by their names in small letters, and {other!r} and {piece.domain!r} are "
                "one there: rename one of them."
            )
        path = f'"dataset_path": {quoted(piece.path)}, ' if sources.paths.get(piece.domain) else ""
        items.append(f'{{"dataset": {quoted(piece.domain)}, {path}"weight": {piece.weight}}}')
    return _object(sources=_listed(items))


def litgpt(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """``input_dirs`` of LitData's streaming datasets, and the ``weights`` of their ``CombinedStreamingDataset``."""
    found = pieces(shares, sources)
    dirs = _listed(quoted(piece.path) for piece in found)
    return _object(input_dirs=dirs, weights=_listed(piece.weight for piece in found))


def interleave(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """``datasets``, each with its name and paths, and the ``probabilities`` of ``datasets.interleave_datasets``."""
    return _object(datasets=_datasets(shares, sources), probabilities=_weights(shares))


def ray_data(shares: Mapping[str, float], space: MixtureSpace, sources: Sources) -> str:
    """``datasets``, each with its name and paths, and the ``weights`` of ``ray.data.Dataset.mix``."""
    return _object(datasets=_datasets(shares, sources), weights=_weights(shares))


def _lines(shares: Mapping[str, float], indent: int) -> str:
    return ",\n".join(f"{' ' * indent}{quoted(domain)}: {decimal(share)}" for domain, share in shares.items())


def _datasets(shares: Mapping[str, float], sources: Sources) -> str:
    named = {domain: ", ".join(map(quoted, sources.of(domain))) for domain, share in shares.items() if share > 0}
    return _listed(f'{{"name": {quoted(domain)}, "paths": [{paths}]}}' for domain, paths in named.items())


def _weights(shares: Mapping[str, float]) -> str:
    return _listed(decimal(share) for share in shares.values() if share > 0)


def _listed(items: Iterable[str]) -> str:
    return "[\n    " + ",\n    ".join(items) + "\n  ]"


def _object(**fields: str) -> str:
    """A JSON object of fields that are JSON already."""
    return "{\n" + ",\n".join(f"  {quoted(name)}: {text}" for name, text in fields.items()) + "\n}\n"
