"""``ray-mixopt prepare``: token shards from documents."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ray_mixopt.cli.interrupts import resumable
from ray_mixopt.cli.options import as_json_option, bad_arguments, examples

if TYPE_CHECKING:
    from ray_mixopt.pretraining.data.documents import OnError
    from ray_mixopt.pretraining.data.manifest import Manifest

_COUNT = click.IntRange(min=1)
_OF_TEXT = ("tokenizer", "train_bpe", "eos", "field", "on_error", "val_share", "seed")
_OF_SHARDS = ("dtype", "vocab_size", "eos_id", "val_tokens")


@click.command(
    epilog=examples(
        "ray-mixopt prepare data/demo --demo",
        "ray-mixopt prepare data/shards --domain 'web=raw/web/*.jsonl.zst' --domain code=raw/code --train-bpe 32000",
        "ray-mixopt prepare /data/olmo --in-place --domain 'web=web/*.npy' --domain 'code=code/*.npy' "
        "--vocab-size 50280",
    )
)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--domain", "domains", metavar="NAME=SOURCE", multiple=True, help="File, pattern or folder; repeatable.")
@click.option("--demo", is_flag=True, help="Make a small corpus of what is installed on this machine.")
@click.option(
    "--megabytes", type=click.FloatRange(min=0.01), default=12, show_default=True, help="--demo: of a domain."
)
@click.option("--tokenizer", type=click.Path(dir_okay=False, path_type=Path), help="JSON file.  [default: bytes]")
@click.option("--train-bpe", metavar="VOCABULARY", type=_COUNT, help="Train a BPE of that size on the input.")
@click.option("--eos", metavar="TOKEN", help="Token that ends a document.  [default: the usual ones]")
@click.option("--field", default="text", show_default=True, help="JSON key or column of the text.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip", "strict"]),
    default="stop",
    show_default=True,
    help="Refuse what cannot be read, leave it out, or refuse also what is only odd.",
)
@click.option("--val-share", type=float, default=0.05, show_default=True, help="Share of validation documents.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split and the BPE.")
@click.option("--workers", type=_COUNT, help="Processes.  [default: one a CPU]")
@click.option("--in-place", is_flag=True, help="Sources are token shards below OUT; write only the manifest.")
@click.option("--dtype", type=click.Choice(["uint16", "uint32"]), default="uint16", help="--in-place: of the tokens.")
@click.option("--vocab-size", type=_COUNT, help="--in-place: token ids are below it.")
@click.option("--eos-id", type=click.IntRange(min=0), help="--in-place: id that ends a document.")
@click.option("--val-tokens", type=_COUNT, default=2**20, show_default=True, help="--in-place: kept for validation.")
@as_json_option
@click.pass_context
def prepare(
    context: click.Context,
    out: Path,
    domains: Sequence[str],
    demo: bool,
    megabytes: float,
    tokenizer: Path | None,
    train_bpe: int | None,
    eos: str | None,
    field: str,
    on_error: OnError,
    val_share: float,
    seed: int,
    workers: int | None,
    in_place: bool,
    dtype: str,
    vocab_size: int | None,
    eos_id: int | None,
    val_tokens: int,
    as_json: bool,
) -> None:
    """Turns documents into token shards with a manifest in the folder OUT.

    A source is a file, a pattern or a folder of JSONL, CSV, Parquet or text, plain or as .gz, .zst, .bz2 or .xz, or a
    saved `datasets` folder. Run it again after an interruption: what is finished is not done again.
    """
    how = "what is finished is kept, give the same command again to go on."
    with bad_arguments():
        import os

        from ray_mixopt.pretraining.data.adopt import Adoption
        from ray_mixopt.pretraining.data.demo import write_demo
        from ray_mixopt.pretraining.data.prepare import Preparation

    with resumable(how), bad_arguments():
        workers = workers or os.cpu_count() or 1
        sources = _sources(domains)
        if demo and (sources or in_place):
            raise ValueError("--demo brings its own domains: drop --domain and --in-place.")
        for options, does_not_go in ((_OF_TEXT, in_place), (_OF_SHARDS, not in_place), (("megabytes",), not demo)):
            if does_not_go:
                _refuse(context, options, "--in-place" if in_place else "sources of text" if not demo else "--demo")
        if demo:
            sources = write_demo(out, megabytes, lambda name: click.echo(f"Collected {name}.", err=True))
        if not sources:
            raise ValueError("Nothing to prepare: give --domain NAME=SOURCE, at least once, or --demo.")
        if in_place:
            if vocab_size is None:
                raise ValueError("--in-place needs --vocab-size: token ids are checked against it.")
            job: Adoption | Preparation = Adoption(
                folder=out,
                sources=sources,
                dtype=dtype,
                vocab_size=vocab_size,
                eos_id=eos_id,
                val_tokens=val_tokens,
                workers=workers,
            )
        else:
            job = Preparation(
                out=out,
                sources=sources,
                tokenizer=tokenizer,
                train_bpe=train_bpe,
                eos=eos,
                field=field,
                on_error=on_error,
                val_share=val_share,
                seed=seed,
                workers=workers,
            )
        with _progress() as progress:
            manifest = job.run(progress)
    if as_json:
        click.echo(json.dumps(_summary(out, manifest)))
    else:
        _show(out, manifest)


def _refuse(context: click.Context, options: Sequence[str], mode: str) -> None:
    """Refuses options that were given and would not be used."""
    default = click.core.ParameterSource.DEFAULT
    if given := [name for name in options if context.get_parameter_source(name) is not default]:
        raise ValueError(f"--{given[0].replace('_', '-')} does not go with {mode}: drop one of them.")


def _sources(texts: Sequence[str]) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {}
    for text in texts:
        name, separator, source = text.partition("=")
        if not separator or not name or not source:
            raise ValueError(f"--domain is NAME=SOURCE, for instance web=data/web/*.jsonl.zst, got {text!r}.")
        sources.setdefault(name, []).append(source)
    return sources


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr, one a domain."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    name = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True, markup=False, emoji=False)
    with Progress(name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, int] = {}

        def advance(domain: str, done: int, total: int) -> None:
            if domain not in tasks:
                tasks[domain] = bars.add_task(domain, total=total)
            bars.advance(tasks[domain], done)  # type: ignore[arg-type]

        yield advance


def _summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """What a manifest says, without its shards."""
    domains = {
        name: {
            split: {"tokens": part.tokens, "documents": part.documents, "shards": len(part.shards)}
            for split, part in (("train", domain.train), ("val", domain.val))
        }
        for name, domain in manifest.domains.items()
    }
    return {
        "folder": str(folder),
        "dtype": manifest.dtype,
        "tokenizer": manifest.tokenizer.model_dump(),
        "fingerprint": manifest.fingerprint,
        "domains": domains,
        "remarks": manifest.remarks,
    }


def _show(folder: Path, manifest: Manifest) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("domain", "train tokens", "val tokens", "documents")
    for name, domain in manifest.domains.items():
        n_documents = domain.train.documents
        shown = "" if n_documents is None else f"{n_documents + (domain.val.documents or 0):,}"
        table.add_row(name, f"{domain.train.tokens:,}", f"{domain.val.tokens:,}", shown)
    console = Console(markup=False, emoji=False)
    console.print(table)
    card = manifest.tokenizer
    console.print(
        f"{folder}: {manifest.dtype}, tokenizer {card.kind}, {card.vocab_size} tokens, "
        f"fingerprint {manifest.fingerprint[:12]}.",
        soft_wrap=True,
    )
    for remark in manifest.remarks:
        console.print(remark, soft_wrap=True)
