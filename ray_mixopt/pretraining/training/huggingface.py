"""A run's checkpoint as a model of Hugging Face: what ``from_pretrained`` loads, evaluates, and generates text with."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError

from ray_mixopt.pretraining.data.manifest import Manifest, TokenizerCard
from ray_mixopt.pretraining.data.tokenizer import EOS, load
from ray_mixopt.pretraining.mistakes import explain
from ray_mixopt.pretraining.training import checkpoint, model
from ray_mixopt.pretraining.training.settings import Shape


@dataclass(frozen=True, kw_only=True)
class WrittenModel:
    """What was written.

    Attributes:
        checkpoint: folder or URI that it was made of.
        step: training steps of the model.
        parameters: number of parameters.
        tokenizer: whether the tokenizer is there, too.
    """

    checkpoint: str
    step: int
    parameters: int
    tokenizer: bool


class _Trained(BaseModel):
    """What of the identity of a run a model depends on."""

    data: str
    shape: Shape
    sequence_length: int = Field(gt=0)


def write_model(run: str, data: Path, out: Path) -> WrittenModel:
    """Writes the newest checkpoint of a run as a model, in float32, with its configuration and its tokenizer.

    The vocabulary of the model is rounded up, as in training: the rows beyond that of the data stay, so that every loss
    is what it was, and are never generated.

    Args:
        run: folder or URI of a run, or of one checkpoint of it.
        data: the token shards that it was trained on.
        out: folder that is new or empty.

    Raises:
        OSError: if the model cannot be written; nothing is left of it then.
        ValueError: if there is no checkpoint, it is damaged, the data are others, or the folder holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds something already: name a new folder.")
    manifest = Manifest.read(data)
    with _newest(run) as (folder, name):
        try:
            trained = _Trained.model_validate(checkpoint.read_identity(folder))
        except ValidationError as error:
            raise ValueError(explain(error, where=f"{name} does not say what it is a model of")) from error
        if trained.data != manifest.fingerprint:
            raise ValueError(
                f"{name} was trained on other data than {data}: their fingerprint is {manifest.fingerprint[:12]}, and "
                f"{trained.data[:12]} that of its own. Name those, with --data."
            )
        card = manifest.tokenizer
        if card.kind != "unknown":
            load(card, data)  # which is the one that made the data
        least = 4 * model.cost(trained.shape, card.vocab_size, trained.sequence_length).parameters
        if (found := checkpoint.bytes_of_tensors(folder)) < least:  # before a model of any size is made
            raise ValueError(
                f"The weights in {name} are not those of the model that it says it has: they are {found} bytes, it "
                f"takes {least} at least."
            )
        made = model.build(trained.shape, card.vocab_size, trained.sequence_length)
        step = checkpoint.load_weights(folder, made)
    beyond = list(range(card.vocab_size, made.config.vocab_size))
    made.config.use_cache = True
    made.config.eos_token_id = made.generation_config.eos_token_id = card.eos_id
    made.generation_config.pad_token_id = card.eos_id
    made.generation_config.use_cache = True
    made.generation_config.suppress_tokens = beyond or None
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".model-") as unfinished:
        whole = Path(unfinished, "model")
        try:
            made.save_pretrained(whole)
        except SafetensorError as error:
            raise OSError(f"{out} cannot be written: {error}.") from error
        if card.kind != "unknown":
            _write_tokenizer(card, data, trained.sequence_length, whole)
        whole.rename(out)
    parameters = sum(parameter.numel() for parameter in made.parameters())
    return WrittenModel(checkpoint=name, step=step, parameters=parameters, tokenizer=card.kind != "unknown")


@contextlib.contextmanager
def _newest(run: str) -> Iterator[tuple[Path, str]]:
    """The newest whole checkpoint of a run, as a local folder, and its name."""
    try:
        filesystem, path = fs.FileSystem.from_uri(run if "://" in run else str(Path(run).resolve()))
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, ValueError) as error:
        raise ValueError(f"{run} cannot be read: {error}.") from error
    whole = [info.path.rpartition("/")[0] for info in found if info.base_name == checkpoint.RUN]
    runs = {folder.rpartition("/")[0] for folder in whole if folder != path}
    if not whole:
        raise ValueError(
            f"{run} holds no checkpoint: name the folder of a run, such as <storage>/<name>/runs/<trial>, or what "
            "--out of a training by hand was. The checkpoints of runs of a search go once these cannot be continued, "
            "unless its configuration has keep_checkpoints: true."
        )
    if len(runs) > 1:
        names = ", ".join(sorted(folder.rpartition("/")[2] for folder in runs)[:10])
        raise ValueError(f"{run} holds {len(runs)} runs: name one of its folders: {names}.")
    if isinstance(filesystem, fs.LocalFileSystem):
        local = max(map(Path, whole), key=checkpoint.step_of)
        yield local, str(local)
        return
    with tempfile.TemporaryDirectory() as copy:
        newest = max(whole)  # by the times in their names
        fs.copy_files(newest, copy, source_filesystem=filesystem)
        yield Path(copy), f"{run.rstrip('/')}{newest.removeprefix(path.rstrip('/'))}"


def _write_tokenizer(card: TokenizerCard, data: Path, length: int, out: Path) -> None:
    """Writes the tokenizer of the data, which special tokens written in a text do not fool."""
    from transformers import PreTrainedTokenizerFast

    if card.kind == "bytes":
        made = _bytes()
        word = EOS
    else:
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(data / str(card.path)))
        word = str(made.id_to_token(int(card.eos_id or 0)))
    made.no_padding()
    made.no_truncation()
    made.post_processor = _nothing_added()
    wrapped: Any = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=word, pad_token=word, model_max_length=length, split_special_tokens=True
    )
    wrapped.save_pretrained(out)


def _bytes() -> Any:
    """``ByteTokenizer`` as one of the ``tokenizers`` library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = _alphabet()
    made = Tokenizer(models.BPE(vocab={alphabet[byte]: byte for byte in range(256)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([EOS])  # which gets the next id, 256
    return made


def _alphabet() -> list[str]:
    """The characters that stand for the bytes in a byte-level tokenizer, as GPT-2 has them."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = iter(range(256, 512))
    return [chr(byte if byte in shown else next(hidden)) for byte in range(256)]


def _nothing_added() -> Any:
    """Leaves the ids of a text as they are: documents begin without a token."""
    from tokenizers import processors

    return processors.ByteLevel(trim_offsets=False)
