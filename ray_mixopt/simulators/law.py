"""A law of pre-training losses: diminishing returns of each domain, power laws of size and length.

Notation: ``n`` mixtures ``w`` of ``d`` domains; ``m`` parameters and ``z`` steps, measured against the largest scale
and the longest run of the fit, ``m*`` and ``z*``. A loss is

    loss(w, m, z) = g_0(w) + g_1(w) (m/m*)^-a + g_2(w) (z/z*)^-b
    g_p(w) = c_p + b_p . (w - 1/d) + sum over r of s_pr (k_r . w + SMOOTHING)^-1/4

Each domain has a unit ``r`` of its own, and the first unit is for all that helps: ``k_r`` says how much the tokens of
each domain are worth there, and they add up before the power, since those of similar domains can replace each other.
With ``s_pr >= 0`` the loss is convex in the mixture at every size and length: it has one minimum, inside wherever
domains with diminishing returns are weighed against each other, and beyond the mixtures that were tried it goes on as
it began. A metric that is to be maximised is fitted with its sign turned.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

PARTS = 3  # g_0, g_1, g_2
SMOOTHING = 0.02  # of a share; keeps the power finite where a domain is left out
CHUNK = 2048  # mixtures at a time, so that what lies between stays in a core's cache
# How far a coefficient may go from what is usual before it costs as much as a row that is wrong by the metric's spread.
# Chosen, as the units and the fourth root were, for five losses of 224 runs with seven domains, mixtures left out.
_WIDTHS = {"exponent": 2.0, "level": 1e3, "slope": 4.0, "gain": 8.0, "reach": 1.5}
_EXPONENTS = (0.3, 0.5)  # a and b, where the runs do not say
_EXPONENT_RANGE = (0.05, 2.0)
_MOST_EVALUATIONS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """Laws of several metrics, evaluated together; the symbols are those above.

    Args:
        exponents: ``a`` and ``b``, ``(n_laws, 2)``.
        level: ``c``, ``(n_laws, 3)``.
        slope: ``b_p``, ``(n_laws, 3, d)``.
        gain: ``s``, ``(n_laws, 3, n_units)``.
        reach: ``k``, ``(n_laws, n_units, d)``; non-negative, each row sums to 1.
        combine: weights of the laws in each metric, ``(n_metrics, n_laws)``; a mean of losses is that of their laws.

    Raises:
        ValueError: if the shapes do not fit each other, or a coefficient is no number.
    """

    exponents: np.ndarray
    level: np.ndarray
    slope: np.ndarray
    gain: np.ndarray
    reach: np.ndarray
    combine: np.ndarray

    def __post_init__(self) -> None:
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        for name, array in arrays.items():
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"The coefficients {name!r} of a law must be finite numbers.")
        n_laws, n_units, d = self.reach.shape if self.reach.ndim == 3 else (0, 0, 0)
        shapes = {
            "exponents": (n_laws, 2),
            "level": (n_laws, PARTS),
            "slope": (n_laws, PARTS, d),
            "gain": (n_laws, PARTS, n_units),
            "reach": (n_laws, n_units, d),
            "combine": (*self.combine.shape[:1], n_laws),
        }
        wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
        if wrong or not n_laws:
            raise ValueError(f"Coefficients of a law do not fit each other: {', '.join(wrong) or 'there are none'}.")
        if (self.reach < 0).any():
            raise ValueError("The reach of a law must not be negative.")

    @property
    def inputs(self) -> int:
        """Number of domains."""
        return self.reach.shape[2]

    @property
    def outputs(self) -> int:
        """Number of metrics."""
        return len(self.combine)

    def __call__(self, shares: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Metrics of many mixtures at one size and length.

        Args:
            shares: ``n x d``.
            features: ``log(m/m*), m/m*, log(z/z*), z/z*``.

        Returns:
            ``n x n_metrics``, float64.
        """
        n_laws, n_units, d = self.reach.shape
        # All that depends on size and length becomes one set of weights for the whole batch.
        weights = np.stack([np.ones(n_laws), *np.exp(-self.exponents * features[[0, 2]]).T], axis=1)  # (n_laws, 3)
        level, slope, gain = (np.einsum("lp,lp...->l...", weights, x) for x in (self.level, self.slope, self.gain))
        by_unit = (self.combine[:, :, None] * gain).reshape(self.outputs, -1).T.copy()
        by_share = (self.combine @ slope).T.copy()
        offset = self.combine @ (level - slope.sum(axis=1) / d)
        reach = self.reach.reshape(-1, d).T.copy()
        out = np.empty((len(shares), self.outputs))
        for start in range(0, len(shares), CHUNK):
            w = shares[start : start + CHUNK]
            units = w @ reach
            units += SMOOTHING
            # Shares may be negative by rounding, which ``Simulator`` lets pass.
            np.sqrt(units, out=units)
            np.divide(1.0, np.sqrt(units, out=units), out=units)  # many times faster than a power
            out[start : start + CHUNK] = w @ by_share + units @ by_unit + offset
        return out


def together(laws: list[Law], combine: np.ndarray) -> Law:
    """Laws of single metrics as one, with the weights ``(n_metrics, n_laws)`` of each in every metric."""
    parts = {
        field.name: np.concatenate([getattr(law, field.name) for law in laws])
        for field in fields(Law)
        if field.name != "combine"
    }
    return Law(**parts, combine=np.asarray(combine, dtype=np.float64))


def fit_law(
    shares: np.ndarray,
    log_size: np.ndarray,
    log_length: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    *,
    spread: float,
    maximise: bool = False,
) -> Law:
    """The law of one metric, by regularised least squares.

    Args:
        shares: ``n x d``.
        log_size: ``log(m/m*)``, ``(n,)``.
        log_length: ``log(z/z*)``, ``(n,)``.
        values: the metric, ``(n,)``, all finite.
        weights: by which errors are multiplied, ``(n,)``.
        spread: what counts as a large error, in the metric's unit: a standard deviation over mixtures.
        maximise: whether more is better.
    """
    from scipy.optimize import least_squares

    sign, centre = (-1.0 if maximise else 1.0), float(values.mean())
    wanted = sign * (values - centre) / spread
    problem = _Problem(shares, log_size, log_length)
    start, usual, low, high, pull = problem.start(wanted)
    solution = least_squares(
        lambda x: np.concatenate([weights * (problem.values(x) - wanted), pull * (x - usual)]),
        start,
        jac=lambda x: np.vstack([weights[:, None] * problem.slopes(x), np.diag(pull)]),
        bounds=(low, high),
        x_scale="jac",
        max_nfev=_MOST_EVALUATIONS,
    )
    exponent, level, slope, gain, reach = problem.split(solution.x)
    level, slope, gain = (sign * spread * x for x in (level, slope, gain))
    level[0] += centre
    used = {"exponents": exponent, "level": level, "slope": slope, "gain": gain, "reach": reach}
    return Law(**{name: array[None] for name, array in used.items()}, combine=np.ones((1, 1)))


def _diminishing(tokens: np.ndarray) -> np.ndarray:
    """What a unit makes of the share of tokens that it counts."""
    return (tokens + SMOOTHING) ** -0.25


class _Problem:
    """Values and derivatives of one law at given rows, for coefficients in one vector.

    The vector holds log a and log b, c, b, s, and the logarithms of the first unit's k before they are normalised.
    """

    def __init__(self, shares: np.ndarray, log_size: np.ndarray, log_length: np.ndarray) -> None:
        self.shares, self.centred = shares, shares - 1 / shares.shape[1]
        self.logs = np.stack([log_size, log_length])
        # With one size, or one length, its term would be a second floor.
        self.varies = [float(np.ptp(log) > 0) for log in self.logs]
        d = shares.shape[1]
        self.sizes = (2, PARTS, PARTS * d, PARTS * (1 + d), d)

    def start(self, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where to start, what each coefficient is pulled to, bounds below and above, and how strongly it is pulled."""
        d = self.shares.shape[1]
        # Domains that lower the loss in a linear fit to log-shares are those that the first unit begins with.
        logs = np.log1p(self.shares * d / 0.15)
        columns = np.column_stack([np.ones(len(wanted)), logs - logs.mean(axis=0), self.logs.T])
        helps = -np.linalg.lstsq(columns, wanted, rcond=None)[0][1 : 1 + d]
        reach = np.log(np.clip(helps / max(np.abs(helps).max(), 1e-12), 0.02, 1.0))
        exponents = np.log(_EXPONENTS)
        linear = np.zeros(PARTS + PARTS * d)
        centre = np.concatenate([exponents, linear, np.zeros(PARTS * (1 + d)), reach])
        start = np.concatenate([exponents, linear, np.full(PARTS * (1 + d), 0.5), reach])
        edges = [(*np.log(_EXPONENT_RANGE),), (-np.inf, np.inf), (-np.inf, np.inf), (0.0, np.inf), (-8.0, 8.0)]
        widths = list(_WIDTHS.values())
        low, high = (np.repeat([edge[i] for edge in edges], self.sizes) for i in (0, 1))
        return np.clip(start, low, high), centre, low, high, 1 / np.repeat(widths, self.sizes)

    def split(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Exponents ``(2,)``, level ``(3,)``, slope ``(3, d)``, gain ``(3, 1 + d)`` and reach ``(1 + d, d)``."""
        exponents, level, slope, gain, reach = np.split(x, np.cumsum(self.sizes)[:-1])
        d = self.shares.shape[1]
        worth = np.exp(reach)
        return (
            np.exp(exponents),
            level.copy(),
            slope.reshape(PARTS, d),
            gain.reshape(PARTS, 1 + d),
            np.vstack([worth / worth.sum(), np.eye(d)]),
        )

    def values(self, x: np.ndarray) -> np.ndarray:
        """The law at each row, ``(n,)``."""
        exponents, level, slope, gain, reach = self.split(x)
        parts = level + self.centred @ slope.T + _diminishing(self.shares @ reach.T) @ gain.T
        values: np.ndarray = (self._powers(exponents) * parts).sum(axis=1)
        return values

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """Derivatives of ``values``, ``n`` rows and a column for each coefficient."""
        exponents, level, slope, gain, reach = self.split(x)
        powers, tokens = self._powers(exponents), self.shares @ reach.T
        units = _diminishing(tokens)
        parts = level + self.centred @ slope.T + units @ gain.T
        n = len(parts)
        of_exponents = -(exponents[:, None] * self.logs).T * powers[:, 1:] * parts[:, 1:]
        of_units = (powers @ gain) * -0.25 * units**5
        # k is normalised: more of one domain is less of the others.
        of_reach = of_units[:, :1] * reach[0] * (self.shares - tokens[:, :1])
        products = [powers[:, :, None] * x[:, None, :] for x in (self.centred, units)]
        return np.hstack([of_exponents, powers, *(x.reshape(n, -1) for x in products), of_reach])

    def _powers(self, exponents: np.ndarray) -> np.ndarray:
        """What the three parts are multiplied by at each row, ``n x 3``."""
        powers = [v * np.exp(-a * log) for v, a, log in zip(self.varies, exponents, self.logs, strict=True)]
        return np.stack([np.ones(self.logs.shape[1]), *powers], axis=1)
