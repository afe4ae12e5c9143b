"""Python of the README and of pages that start Ray, run as a reader would: one block after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def printed(page: str, folder: Path, then: str = "") -> str:
    """What the code of a page prints, with some more after it."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    script = folder / "page.py"
    script.write_text("\n".join([*blocks, then]))
    child = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4000:]
    return child.stdout


def test_readme_code_runs(tmp_path: Path) -> None:
    text = printed("README.md", tmp_path)
    assert text.count("Recommended mixture for 1B x 19,700 steps") == 2  # of the search, and as it was restored
    assert "Suggestion(" in text


def test_the_trainable_of_the_page_is_searched_with(tmp_path: Path) -> None:
    then = "results = tuner.fit()\nprint('Trials:', len(results), 'errors:', len(results.errors))\n"
    then += "print(MixOptSearcher.load(results.experiment_path).recommend())\n"
    text = printed("docs/how-to/trainable.md", tmp_path, then)
    assert "Trials: 6 errors: 0" in text and "Recommended mixture for 1B x 20,000 steps" in text
    assert (tmp_path / "ray_results" / "my-search").is_dir()


def test_a_strategy_of_ones_own_runs_in_tune_and_in_the_benchmark(tmp_path: Path) -> None:
    then = "results = tuner.fit()\n"
    then += "print('Trials:', len(results), 'errors:', len(results.errors))\n"
    then += "print(MixOptSearcher.load(results.experiment_path, strategy=Climb).recommend())\n"
    text = printed("docs/how-to/strategy.md", tmp_path, then)
    assert re.search(r"regret \d\.\d\d for [12]\.\d\d full runs", text)
    assert "Trials: 4 errors: 0" in text and "Recommended mixture for 1B x 6,000 steps" in text
