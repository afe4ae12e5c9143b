"""A small real corpus from text that lies on any machine with this package: for trying things out.

Five clearly different domains: Python code, C++ headers, English documentation (docstrings, reStructuredText,
Markdown), licences with package descriptions, and data files (JSON, JavaScript). They come from the standard library
and the installed packages. Each file keeps its licence, and the corpus stays on the machine that it was made on.
"""

from __future__ import annotations

import ast
import email
import hashlib
import json
import math
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ray_mixopt.pretraining.data.holdout import passage

NOTICE = """This corpus was made from files that are installed on this machine: Python and its packages.
They remain under their own licences. Use it here, and do not redistribute it.
"""
SOURCES = ".demo"

_PART_BYTES = 4 * 2**20
_MAX_FILE = 2**18  # bytes; larger files are generated ones, mostly
_MIN_TEXT = 200  # characters


def write_demo(out: Path, megabytes: float, progress: Callable[[str], None]) -> dict[str, list[str]]:
    """Collects the documents of each domain, at most so many megabytes of each.

    Args:
        out: folder of the corpus; the documents go to a folder within.
        megabytes: most to collect of a domain.
        progress: called with each domain as it is done.

    Returns:
        The documents' files by domain.

    Raises:
        ValueError: if that is no number of megabytes.
    """
    if not 0 < megabytes < math.inf:
        raise ValueError(f"--megabytes: each domain has a positive, finite number of them, got {megabytes}.")
    folder = out / SOURCES
    folder.mkdir(parents=True, exist_ok=True)
    (out / "NOTICE").write_text(NOTICE)
    found = {}
    for name, collect in DOMAINS.items():
        found[name] = _write(folder, name, collect(), int(megabytes * 2**20))
        progress(name)
    return found


def _python() -> Iterator[str]:
    yield from (text for path, text in _texts("*.py") if not _is_documentation(path))


def _headers() -> Iterator[str]:
    include = Path(sysconfig.get_path("include"))
    for pattern in ("*.h", "*.hpp", "*.cuh"):
        yield from (text for _, text in _texts(pattern, extra=[include]))


def _documentation() -> Iterator[str]:
    """Docstrings of modules that do not serve as code, and written documentation."""
    for pattern in ("*.rst", "*.md"):
        yield from (text for path, text in _texts(pattern) if not _is_legal(path))
    for path, text in _texts("*.py"):
        if _is_documentation(path):
            yield _docstrings(text)


def _legal() -> Iterator[str]:
    known = set()  # nearly all licences are one of a few: one of each will do
    for pattern in ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "AUTHORS*"):
        for _, text in _texts(pattern):
            if (alike := passage(text)) not in known:
                known.add(alike)
                yield text
    for _, text in _texts("METADATA"):
        body = email.message_from_string(text).get_payload()
        yield body if isinstance(body, str) else text


def _data() -> Iterator[str]:
    for pattern in ("*.json", "*.js"):
        yield from (text for _, text in _texts(pattern))


DOMAINS: dict[str, Callable[[], Iterator[str]]] = {
    "python": _python,
    "headers": _headers,
    "documentation": _documentation,
    "licences": _legal,
    "data": _data,
}


def _roots() -> list[Path]:
    paths = sysconfig.get_paths()
    return sorted({Path(paths[name]) for name in ("stdlib", "purelib", "platlib")})


def _texts(pattern: str, extra: Iterable[Path] = ()) -> Iterator[tuple[Path, str]]:
    """Readable files of that name and their text, in an order that mixes the packages."""
    paths = {path for root in (*_roots(), *extra) if root.is_dir() for path in root.rglob(pattern)}
    for path in sorted(paths, key=_hash):
        try:
            if path.is_file() and path.stat().st_size <= _MAX_FILE:
                yield path, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _hash(path: Path) -> bytes:
    return hashlib.blake2b(str(path).encode("utf-8", "replace"), digest_size=8).digest()


def _is_documentation(path: Path) -> bool:
    """Half of all Python files serve as code, the other half as docstrings, so that neither contains the other."""
    return _hash(path)[0] % 2 == 0


def _is_legal(path: Path) -> bool:
    return path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS"))


def _docstrings(source: str) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def _write(folder: Path, name: str, texts: Iterable[str], limit: int) -> list[str]:
    """Writes documents as JSON lines in files of a few megabytes, without duplicates, up to so many bytes."""
    seen: set[bytes] = set()
    parts: list[str] = []
    lines: list[str] = []
    size = total = 0

    def flush() -> None:
        path = folder / f"{name}-{len(parts):05d}.jsonl"
        content = "".join(lines)
        if not path.is_file() or path.read_text() != content:  # else what was tokenized need not be done again
            path.write_text(content)
        parts.append(str(path))
        lines.clear()

    for text in texts:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if len(text) < _MIN_TEXT or digest in seen:
            continue
        seen.add(digest)
        lines.append(json.dumps({"text": text}) + "\n")
        size += len(lines[-1])
        total += len(text.encode())
        if size >= _PART_BYTES:
            flush()
            size = 0
        if total >= limit:
            break
    if lines:
        flush()
    for stale in folder.glob(f"{name}-*.jsonl"):
        if str(stale) not in parts:
            stale.unlink()
    if not parts:
        raise ValueError(f"There is no text on this machine for the domain {name!r} of the demo.")
    return parts
