"""Classification of irregular series: control path, differential equation, read-out."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nde.models.output import LayerOutput
from nde.models.series_layer import SeriesLayer
from nde.solvers import Solution
from nde.solvers.brownian import Seed
from nde.solvers.control import HermiteCubic

Intensity = Literal["none", "counts", "mask"]
ReadOut = Literal["end", "mean"]


@dataclass(frozen=True, eq=False)
class ClassifierOutput:
    """Logits `(batch, classes)` and the price of the solve.

    `penalty` 0-dim, already weighted, zero without regularizers and outside training
    mode; `penalties` by name, unweighted and detached, `terms` the same with their
    graphs, and `weights` what each was multiplied with; `evaluations (batch,)` int64;
    `solution` of the differential equation.
    """

    logits: Tensor
    penalty: Tensor
    penalties: dict[str, Tensor]
    terms: dict[str, Tensor]
    weights: dict[str, float]
    evaluations: Tensor
    solution: Solution


class SeriesClassifier(nn.Module):
    """Logits from padded series with missing values.

    Each series becomes a Hermite cubic path through (time, values, intensity); the
    layer follows it from the first to the last time of that series, however long the
    others are; a perceptron reads the state.

    Args:
        layer: the differential equation, built for `control_channels(...)` channels.
        classes: number of classes.
        intensity: channels that tell where something was observed: "none"; "counts",
            log(1 + observations so far) per channel; "mask", 1 or 0 per channel.
        readout: "end", the last state; "mean", the last state and the mean over
            `outputs` equally spaced times after the first.
        outputs: number of those times.
        width: hidden size of the read-out; None is the size of the state.
        dropout: rate on the read-out's hidden layer.
        input_noise: deviation of the normal noise that training mode adds to every
            observation, in the units of `values`; drawn from torch's generator.

    Raises:
        ValueError: an unknown option or a size below 1.
    """

    def __init__(
        self,
        layer: SeriesLayer,
        classes: int,
        *,
        intensity: Intensity = "none",
        readout: ReadOut = "end",
        outputs: int = 4,
        width: int | None = None,
        dropout: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if intensity not in ("none", "counts", "mask"):
            raise ValueError(
                f"intensity is {intensity!r}; use 'none', 'counts' or 'mask'"
            )
        if readout not in ("end", "mean"):
            raise ValueError(f"readout is {readout!r}; use 'end' or 'mean'")
        if classes < 2 or outputs < 1:
            raise ValueError(
                f"a classifier needs classes >= 2 and outputs >= 1, received classes "
                f"{classes}, outputs {outputs}"
            )
        if not 0 <= input_noise < math.inf:
            raise ValueError(
                f"input_noise is {input_noise}; it is a deviation, at least 0"
            )
        self.layer = layer
        self.stochastic = layer.stochastic
        self.intensity, self.readout, self.outputs = intensity, readout, outputs
        self.input_noise = input_noise
        states = 1 if readout == "end" else 2
        width = layer.hidden if width is None else width
        self.head = nn.Sequential(
            nn.Linear(layer.hidden * states, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, classes),
        )

    def forward(
        self,
        times: Tensor,
        values: Tensor,
        *,
        seed: Seed | None = None,
        progress: float = 0.0,
    ) -> ClassifierOutput:
        """Classify a padded batch.

        Args:
            times: `(batch, L)`, increasing, padded by repeating the last time. Scale
                them so that a series is about one long.
            values: `(batch, L, channels)`, NaN where missing or padded.
            seed: of the Brownian motion, or `(batch,)` one for each series, whose
                path is then the same in any company; None draws one from torch's
                generator.
            progress: done part of the training in [0, 1], for the regularizers.

        Raises:
            ValueError, TypeError: input that is no series (see `HermiteCubic`).
            SolveError: a solve that did not reach the end.
        """
        self._check(times, values)
        if self.training and self.input_noise > 0:
            values = values + self.input_noise * torch.randn_like(values)
        path = control_path(times, values, self.intensity)
        # Each series on steps of its own length: on one grid for all, most of the
        # steps of a short series would follow a path that no longer moves.
        start, end = times[:, :1], times[:, -1:]
        count = 1 if self.readout == "end" else self.outputs
        share = torch.arange(count + 1, dtype=times.dtype, device=times.device) / count
        ts = torch.where(share < 1, start + (end - start) * share, end)
        out: LayerOutput = self.layer(path, ts, seed=seed, progress=progress)
        state = out.final
        if self.readout == "mean":
            state = torch.cat([state, out.ys[:, 1:].mean(dim=1)], dim=-1)
        return ClassifierOutput(
            logits=self.head(state),
            penalty=out.penalty,
            penalties=out.penalties,
            terms=out.terms,
            weights=out.weights,
            evaluations=out.solution.stats.evaluations,
            solution=out.solution,
        )

    def _check(self, times: Tensor, values: Tensor) -> None:
        weight = self.head[0].weight
        given = values.shape[-1] if values.ndim else 0
        path = control_channels(given, self.intensity)
        if path != self.layer.channels:
            raise ValueError(
                f"values have {given} channels, which make a control path of {path} "
                f"with time and intensity; the layer was built for one of "
                f"{self.layer.channels}"
            )
        if values.dtype != weight.dtype or times.dtype != weight.dtype:
            raise TypeError(
                f"times are {times.dtype} and values {values.dtype}, the weights "
                f"{weight.dtype}; cast the series, or the model by model.to(dtype)"
            )


def control_channels(channels: int, intensity: Intensity) -> int:
    """Channels of the control path over series of `channels` channels."""
    return 1 + channels * (1 if intensity == "none" else 2)


def control_path(times: Tensor, values: Tensor, intensity: Intensity) -> HermiteCubic:
    """The path through (time, values, intensity); arguments as for the classifier.

    Raises:
        ValueError, TypeError: see `HermiteCubic`.
    """
    if times.ndim != 2 or values.ndim != 3 or values.shape[:2] != times.shape:
        raise ValueError(
            "series are times (batch, L) and values (batch, L, channels), received "
            f"{tuple(times.shape)} and {tuple(values.shape)}"
        )
    parts = [times.unsqueeze(-1), values]
    if intensity != "none":
        seen = (~values.isnan()).to(values.dtype)
        parts.append(seen if intensity == "mask" else seen.cumsum(dim=1).log1p())
    return HermiteCubic(times, torch.cat(parts, dim=-1))
