"""A simulator of pre-training runs: a small model from (mixture, scale, steps) to every metric.

Notation: ``n`` mixtures of ``d`` domains; ``m`` the number of parameters of a scale and ``z`` the training steps,
measured against the largest scale and longest run, ``m*`` and ``z*``, of the fit. The model's inputs are the ``d``
shares and the four fidelity features ``log(m/m*), m/m*, log(z/z*), z/z*``. It is a network, or a law.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np

from ray_mixopt.core.safety import MiB, check_size, check_version, parse_json
from ray_mixopt.core.space import MixtureSpace
from ray_mixopt.simulators.law import Law

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FOLDER = Path(__file__).parent  # of the simulators that come with the package
FORMAT_VERSION, LAW_VERSION = 1, 2  # of files with a network, and with a law
MOST_BYTES = 256 * MiB
# What zipfile and numpy raise for archives and headers that are damaged, encrypted or packed in an unknown way.
_NO_ARCHIVE = (
    *(BadZipFile, EOFError, MemoryError, NotImplementedError, RuntimeError, SyntaxError),
    *(TokenError, struct.error, zlib.error),
)
SUM_TOLERANCE = 1e-6
_LAW = "law_"  # before the names of a law's arrays in a file
CHUNK = 512  # mixtures at a time: the activations of one chunk stay in a core's cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A fully connected network, evaluated in the precision of its weights.

    Args:
        weights: one matrix a layer, ``(out, in)``. The first takes the shares and the fidelity features.
        biases: one vector a layer, ``(out,)``.
        activation: between layers: "squareplus", ``x + sqrt(x^2 + 1)``, which is smooth, or "relu".

    Raises:
        ValueError: if the layers do not fit each other or the activation is unknown.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: str = "squareplus"

    def __post_init__(self) -> None:
        if self.activation not in ("squareplus", "relu"):
            raise ValueError(f"Unknown activation {self.activation!r}: use 'squareplus' or 'relu'.")
        shapes = [w.shape for w in self.weights]
        fits = all(len(shape) == 2 for shape in shapes) and len(shapes) == len(self.biases) > 0
        fits = fits and all(b.shape == (shape[0],) for b, shape in zip(self.biases, shapes, strict=True))
        if not fits or any(a[0] != b[1] for a, b in pairwise(shapes)):
            raise ValueError(
                f"Layers do not fit each other: weights {shapes}, biases {[b.shape for b in self.biases]}."
            )

    @property
    def inputs(self) -> int:
        """Number of domains."""
        return self.weights[0].shape[1] - 4

    @property
    def outputs(self) -> int:
        """Number of metrics."""
        return len(self.weights[-1])

    def __call__(self, shares: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Outputs for many mixtures at one fidelity.

        Args:
            shares: ``n x d``.
            features: fidelity features, ``(4,)``.

        Returns:
            ``n x outputs``, float64.
        """
        n, d = shares.shape
        dtype = self.weights[0].dtype
        # The fidelity is the same for the whole batch: its part of the first layer is a bias.
        first = self.biases[0] + self.weights[0][:, d:].astype(np.float64) @ features
        biases = [b.astype(dtype)[:, None] for b in (first, *self.biases[1:])]
        weights = (np.ascontiguousarray(self.weights[0][:, :d]), *self.weights[1:])
        inputs = np.ascontiguousarray(shares.T, dtype=dtype)  # (d, n)
        width = min(CHUNK, n)
        hidden = [np.empty((len(b), width), dtype) for b in biases]
        scratch = [np.empty((len(b), width), dtype) for b in biases[:-1]]
        out = np.empty((n, len(biases[-1])))
        for start in range(0, n, CHUNK):
            x = inputs[:, start : start + CHUNK]
            size = x.shape[1]
            for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
                y = hidden[layer][:, :size]
                np.matmul(w, x, out=y)
                y += b
                if layer < len(weights) - 1:
                    self._activate(y, scratch[layer][:, :size])
                x = y
            out[start : start + size] = x.T
        return out

    def _activate(self, y: np.ndarray, scratch: np.ndarray) -> None:
        """Applies the activation in place."""
        if self.activation == "relu":
            np.maximum(y, 0, out=y)
            return
        np.multiply(y, y, out=scratch)
        scratch += 1
        np.sqrt(scratch, out=scratch)
        y += scratch


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulator:
    """What a pre-training run of a mixture would report, as far as a model fitted on real runs can tell.

    Args:
        name: what it is called.
        space: domains, scales (all with ``parameters``), rungs and target.
        metrics: names of the outputs, in order.
        modes: "min" or "max" for each metric.
        default_metric: the metric to optimise unless said otherwise.
        model: a fitted network or law.
        fitted_steps: shortest and longest training the model was fitted on, in steps.
        unit_parameters: ``m*``, the parameters that fidelity features are measured against.
        spread: standard deviation of each metric over Dirichlet(1) mixtures at the target of the fit, ``(n_metrics,)``.
        noise: standard deviation of ``observe``'s noise, as a share of ``spread``.
        seed: seed of that noise.

    Raises:
        ValueError: if the parts do not fit each other, a rung was not fitted, or ``noise`` is negative.
    """

    name: str
    space: MixtureSpace
    metrics: tuple[str, ...]
    modes: dict[str, str]
    default_metric: str
    model: Network | Law
    fitted_steps: tuple[int, int]
    unit_parameters: float
    spread: np.ndarray
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"noise is a share of a standard deviation and must be >= 0, got {self.noise!r}.")
        if set(self.modes) != set(self.metrics) or not set(self.modes.values()) <= {"min", "max"}:
            raise ValueError(f"modes must give 'min' or 'max' for each metric, got {self.modes!r}.")
        if self.default_metric not in self.metrics:
            raise ValueError(f"default_metric {self.default_metric!r} is not one of {', '.join(self.metrics)}.")
        outputs, inputs = self.model.outputs, self.model.inputs
        if outputs != len(self.metrics) or inputs != self.space.n_domains or self.spread.shape != (outputs,):
            raise ValueError(
                f"A model from {inputs} domains to {outputs} metrics does not fit {self.space.n_domains} domains and "
                f"{len(self.metrics)} metrics."
            )
        unsized = [scale.name for scale in self.space.scales if scale.parameters is None]
        if unsized:
            raise ValueError(f"A simulator needs the parameters of every scale; missing for {', '.join(unsized)}.")
        for steps in self.space.steps:
            self._check_steps(steps)

    @property
    def pool(self) -> None:
        """Always None: it answers every mixture, where a ``RunTable`` has only the logged ones."""
        return None

    def evaluate(self, mixtures: ArrayLike, scale: str, steps: int) -> np.ndarray:
        """Metrics without noise.

        Args:
            mixtures: ``n x d``, rows of non-negative shares that sum to 1, in the space's domain order.
            scale: name of a scale of the space.
            steps: training steps, within ``fitted_steps``.

        Returns:
            ``n x n_metrics``, float64, in the order of ``metrics``.

        Raises:
            ValueError: for mixtures, scales and steps that the simulator was not fitted on.
        """
        shares = self._checked_mixtures(mixtures)
        return self.model(shares, self.features(scale, steps))

    def observe(self, mixture: Mapping[str, float] | ArrayLike, scale: str, steps: int) -> dict[str, float]:
        """What one run would report at one rung.

        The noise is Gaussian and a pure function of (seed, mixture, scale, steps): a replay that is interrupted and
        repeated sees the very same values. Use another seed for a replicate. It is independent across metrics, so
        that with noise ``loss`` is no longer exactly the mean of the validation losses.

        Args:
            mixture: shares by domain name, or ``(d,)`` in domain order; normalised to sum to 1.
            scale: name of a scale of the space.
            steps: training steps, within ``fitted_steps``.

        Raises:
            ValueError: for a mixture, scale or steps that the simulator was not fitted on.
        """
        shares = self.space.mixture(mixture)
        values = self.evaluate(shares[None], scale, steps)[0]
        if self.noise > 0:
            values = values + self.noise * self.spread * self._standard_normal(shares, scale, steps)
        return dict(zip(self.metrics, values.tolist(), strict=True))

    def rungs(self, mixture: ArrayLike, scale: str) -> tuple[int, ...]:
        """Steps at which a run of that mixture ``(d,)`` and scale reports: the rungs of the scale."""
        return self.space.rungs(scale)

    def features(self, scale: str, steps: int) -> np.ndarray:
        """Fidelity features ``(4,)`` of a scale and a number of steps, as the model takes them.

        Raises:
            ValueError: for a scale or steps that the simulator was not fitted on.
        """
        parameters = self.space.scale(scale).parameters
        assert parameters is not None
        self._check_steps(steps)
        m, z = parameters / self.unit_parameters, steps / self.fitted_steps[1]
        return np.array([math.log(m), m, math.log(z), z])

    # -- files

    def save(self, path: str | Path) -> None:
        """Writes an ``.npz`` that ``read`` takes back; noise and seed are not kept."""
        model = self.model
        header = {
            "version": LAW_VERSION if isinstance(model, Law) else FORMAT_VERSION,
            "space": self.space.to_dict(),
            **({} if isinstance(model, Law) else {"activation": model.activation}),
            **{key: getattr(self, key) for key in ("name", "metrics", "modes", "default_metric")},
            **{key: getattr(self, key) for key in ("fitted_steps", "unit_parameters")},
        }
        arrays = {"header": np.array(json.dumps(header)), "spread": self.spread}
        if isinstance(model, Law):
            arrays |= {f"{_LAW}{field.name}": getattr(model, field.name) for field in fields(Law)}
        else:
            arrays |= {f"weight_{i}": w for i, w in enumerate(model.weights)}
            arrays |= {f"bias_{i}": b for i, b in enumerate(model.biases)}
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: str | Path) -> Simulator:
        """The simulator that ``save`` wrote. Nothing is unpickled.

        Raises:
            ValueError: if the file is not a simulator of this release.
        """
        try:
            return cls._of(path, _arrays(path))
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"{str(path)!r} is a malformed simulator: {error!r}.") from error

    @classmethod
    def _of(cls, path: str | Path, arrays: dict[str, np.ndarray]) -> Simulator:
        if "header" not in arrays:
            raise ValueError(f"{str(path)!r} is not a simulator: write one with `ray-mixopt simulator fit`.")
        header = parse_json(str(arrays["header"]))
        what = f"the simulator {str(path)!r}"
        version = check_version(header, what, FORMAT_VERSION, LAW_VERSION, remedy="fit it again")
        del header["version"]
        model: Network | Law
        if version == LAW_VERSION:
            model = Law(**{field.name: arrays[f"{_LAW}{field.name}"] for field in fields(Law)})
        else:
            layers = range(sum(key.startswith("weight_") for key in arrays))
            model = Network(
                weights=tuple(arrays[f"weight_{i}"] for i in layers),
                biases=tuple(arrays[f"bias_{i}"] for i in layers),
                activation=header.pop("activation"),
            )
        header["space"] = MixtureSpace.from_dict(header["space"])
        header = {key: tuple(value) if isinstance(value, list) else value for key, value in header.items()}
        known = {field.name for field in fields(cls)}
        if not set(header) <= known:
            raise ValueError(f"{str(path)!r} has unknown fields {sorted(set(header) - known)}.")
        return cls(model=model, spread=arrays["spread"], **header)

    # -- inside

    def _check_steps(self, steps: int) -> None:
        low, high = self.fitted_steps
        if not low <= steps <= high:
            raise ValueError(f"Simulator {self.name!r} was fitted on {low} to {high} steps, not on {steps!r}.")

    def _checked_mixtures(self, mixtures: ArrayLike) -> np.ndarray:
        shares = np.asarray(mixtures, dtype=np.float64)
        d = self.space.n_domains
        if shares.ndim != 2 or shares.shape[1] != d:
            raise ValueError(f"mixtures must be n x {d}, one column a domain; got shape {shares.shape}.")
        if not len(shares):
            return shares
        sums = shares @ np.ones(d)
        # Negated so that NaN fails too.
        if not (shares.min() >= -SUM_TOLERANCE and np.abs(sums - 1).max() <= SUM_TOLERANCE):
            wrong = ~((shares >= -SUM_TOLERANCE).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE))
            row = int(np.argmax(wrong))
            raise ValueError(
                f"Mixture {row} is {shares[row].tolist()} and sums to {sums[row]:.6g}: shares must be non-negative "
                "and sum to 1."
            )
        return shares

    def _standard_normal(self, shares: np.ndarray, scale: str, steps: int) -> np.ndarray:
        # Rounded, since a mixture may come back from a file with another last bit.
        rounded = np.round(shares, 9) + 0.0
        key = f"{self.seed}|{scale}|{int(steps)}|{self.name}".encode() + rounded.astype("<f8").tobytes()
        digest = hashlib.blake2b(key, digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(len(self.metrics))


def names() -> tuple[str, ...]:
    """Names of the simulators that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))


def load(name: str, noise: float = 0.0, seed: int = 0, steps: Sequence[int] | None = None) -> Simulator:
    """A simulator by name, or the one in the ``.npz`` file of that path.

    Args:
        name: one of ``names()``, or a path that ends in ``.npz`` and was written by ``ray-mixopt simulator fit``.
        noise: standard deviation of the observation noise, as a share of each metric's standard deviation over
            mixtures at the target; 0 for none.
        seed: seed of that noise.
        steps: rungs of the space, ascending, in place of the simulator's own. The last one becomes the target.

    Raises:
        ValueError: for an unknown name, a negative noise, or rungs outside the fitted steps.
    """
    if str(name).endswith(".npz"):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"There is no simulator file {str(path)!r}.")
    elif name in names():
        path = FOLDER / f"{name}.npz"
    else:
        known = ", ".join(names())
        raise ValueError(f"Unknown simulator {name!r}: use one of {known}, or a path that ends in .npz.")
    simulator = Simulator.read(path)
    space = simulator.space
    if steps is not None:
        space = replace(space, steps=tuple(steps), target=None)
    return replace(simulator, space=space, noise=noise, seed=seed)


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file of a sensible size, once unpacked. Raises ValueError if it is none."""
    try:
        with ZipFile(path) as archive:
            check_size(path, sum(entry.file_size for entry in archive.infolist()), MOST_BYTES)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except _NO_ARCHIVE as error:
        raise ValueError(f"{str(path)!r} is no .npz file: {error}.") from error
