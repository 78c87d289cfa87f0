"""Weights as the text of a configuration or command line.

0.5                     a constant
100:10                  from 100 to 10, exponentially
0.5,warmup=0.1          risen to within the first tenth of the training
auto:nfe=0.6            evaluations at most 0.6 of the unregularized model's
auto:nfe=0.6,of=81      which are known to be 81 per sample
auto:share=0.3          0.3 of the gradient norm
"""

from __future__ import annotations

from nde.regularizers.auto_weight import AutoEvaluations, AutoShare
from nde.regularizers.weight import Exponential, WarmUp, Weight

_EXPECTED = (
    "expected a number >= 0, start:end of two positive numbers, either with "
    ",warmup=SHARE after it, auto:nfe=RATIO, auto:nfe=RATIO,of=EVALUATIONS or "
    "auto:share=SHARE"
)


def weight_of(text: float | str) -> Weight:
    """The weight that a text stands for, see above; a number is itself.

    Every call makes a new one. Raises ValueError for anything else.
    """
    parts = [part.strip() for part in str(text).split(",")]
    try:
        if parts[0].startswith("auto:"):
            return _auto(parts[0].removeprefix("auto:"), parts[1:])
        weight = _plain(parts[0])
        options = _options(parts[1:], ("warmup",))
        return WarmUp(weight, options["warmup"]) if options else weight
    except ValueError as error:
        raise ValueError(f"{error}; {_EXPECTED}, got {text!r}") from None


def canonical(text: float | str) -> float | str:
    """The shortest text of the same weight, or a number. Raises as `weight_of`."""
    weight = weight_of(text)
    if isinstance(weight, WarmUp):
        return f"{_number(weight.weight)},warmup={weight.share:g}"
    if isinstance(weight, AutoShare):
        return f"auto:share={weight.share:g}"
    if isinstance(weight, AutoEvaluations):
        known = "" if weight.reference is None else f",of={weight.reference:g}"
        return f"auto:nfe={weight.ratio:g}{known}"
    return _number(weight) if isinstance(weight, Exponential) else float(str(text))


def _number(weight: float | Exponential) -> str:
    if isinstance(weight, Exponential):
        return f"{weight.start:g}:{weight.end:g}"
    return f"{weight:g}"


def _plain(text: str) -> float | Exponential:
    ends = [_float(end) for end in text.split(":")]
    if len(ends) > 2:
        raise ValueError("more than two numbers")
    if len(ends) == 2:
        return Exponential(*ends)
    if not 0.0 <= ends[0] < float("inf"):
        raise ValueError("not a finite number >= 0")
    return ends[0]


def _auto(first: str, rest: list[str]) -> Weight:
    options = _options([first, *rest], ("nfe", "of", "share"))
    if options.keys() == {"share"}:
        return AutoShare(options["share"])
    if "nfe" not in options or "share" in options:
        raise ValueError("an automatic weight has one target, nfe or share")
    return AutoEvaluations(options["nfe"], options.get("of"))


def _options(parts: list[str], known: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in known or name in found:
            raise ValueError(f"unknown or repeated option {name!r}")
        found[name] = _float(value)
    return found


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
