"""Each form of the SDE layers against its formulas written out again in numpy."""

import numpy as np
import pytest
import torch
from models.series import random_path
from numpy.typing import NDArray
from torch import nn

from nde.models import GeometricSDE, LangevinSDE, LinearNoiseSDE, NeuralSDE

Array = NDArray[np.float64]
T = 0.7


def affine(layer: nn.Module, x: Array) -> Array:
    weight, bias = (p.detach().numpy() for p in layer.parameters())
    return x @ weight.T + bias


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def clock(batch: int) -> Array:
    return np.tile([np.sin(T), np.cos(T)], (batch, 1))


def runtime_r(gamma: nn.Module, z: Array, x: Array | None, timed: bool) -> Array:
    """The network under the outer tanh."""
    parts = dict(gamma.named_children())
    inner = affine(
        parts["state"], np.concatenate([clock(len(z)), z], 1) if timed else z
    )
    if x is not None:
        inner = affine(
            parts["merge"],
            np.concatenate([inner, affine(parts["control"], x)], axis=1),
        )
    for layer in parts["output"].get_submodule("maps"):
        inner = affine(layer, relu(inner))
    return inner


def runtime_sigma(sigma: nn.Module) -> Array:
    first, last = sigma.get_submodule("net.maps")
    n = relu(affine(last, relu(affine(first, clock(1)))))
    return sigmoid(sigma.get_parameter("theta").item()) * n


def data() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return 2 * rng.normal(size=(6, 4)), rng.normal(size=(6, 3))


def call(f: object, *arguments: Array) -> Array:
    assert callable(f)
    tensors = [torch.from_numpy(a) for a in arguments]
    out: Array = f(torch.tensor(T, dtype=torch.float64), *tensors).detach().numpy()
    return out


@pytest.mark.parametrize("layers", [1, 3])
def test_runtime_langevin(layers: int) -> None:
    layer = LangevinSDE(3, 4, width=5, layers=layers, form="runtime").double()
    z, x = data()
    r = runtime_r(layer.gamma, z, x, timed=False)
    np.testing.assert_allclose(call(layer.drift, z, x), np.tanh(r), rtol=1e-12)
    want = np.tanh(np.tile(runtime_sigma(layer.sigma), (6, 1)))
    np.testing.assert_allclose(call(layer.diffusion, z), want, rtol=1e-12)


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_runtime_linear_noise(noise: str) -> None:
    layer = LinearNoiseSDE(3, 4, form="runtime", noise=noise)  # type: ignore[arg-type]
    layer = layer.double()
    z, x = data()
    r = runtime_r(layer.gamma, z, x, timed=True)
    np.testing.assert_allclose(call(layer.drift, z, x), np.tanh(r), rtol=1e-12)
    want = np.tanh(runtime_sigma(layer.sigma) * z)
    np.testing.assert_allclose(call(layer.diffusion, z), want, rtol=1e-12)


@pytest.mark.parametrize("factor", ["tanh", "one_minus_sigmoid"])
def test_runtime_geometric(factor: str) -> None:
    layer = GeometricSDE(
        3,
        4,
        form="runtime",
        gsde_drift=factor,  # type: ignore[arg-type]
    ).double()
    z, x = data()
    r = runtime_r(layer.gamma, z, x, timed=True)
    scale = np.tanh(z) if factor == "tanh" else 1 - sigmoid(z)
    np.testing.assert_allclose(call(layer.drift, z, x), np.tanh(r * scale), rtol=1e-12)
    want = np.tanh(runtime_sigma(layer.sigma) * z)
    np.testing.assert_allclose(call(layer.diffusion, z), want, rtol=1e-12)


@pytest.mark.parametrize("controlled", [False, True])
def test_runtime_plain(controlled: bool) -> None:
    layer = NeuralSDE(3, 4, form="runtime", controlled=controlled).double()
    z, x = data()
    r = runtime_r(layer.f, z, x if controlled else None, timed=True)
    np.testing.assert_allclose(call(layer.drift, z, x), np.tanh(r), rtol=1e-12)
    inner = relu(
        affine(layer.g.get_submodule("inner"), np.concatenate([clock(6), z], 1))
    )
    n = relu(affine(layer.g.get_submodule("outer"), inner))
    want = np.tanh(sigmoid(1.0) * n)
    np.testing.assert_allclose(call(layer.diffusion, z), want, rtol=1e-12)


def test_runtime_sizes_are_the_published_ones() -> None:
    """Latent 64, width 64, 2 hidden layers, 15 channels: 26,113 and 26,241 weights."""

    def field(layer: nn.Module) -> int:
        return sum(p.numel() for n, p in layer.named_parameters() if "initial" not in n)

    assert field(LangevinSDE(15, 64, form="runtime")) == 26_113
    assert field(LinearNoiseSDE(15, 64, form="runtime")) == 26_241
    assert field(GeometricSDE(15, 64, form="runtime")) == 26_241


def paper_gamma(gamma: nn.Module, z: Array, x: Array | None, timed: bool) -> Array:
    parts = dict(gamma.named_children())
    inner = silu(
        affine(parts["zeta"], z if x is None else np.concatenate([z, x], axis=1))
    )
    if timed:
        inner = np.concatenate([inner, np.full((len(z), 1), T)], axis=1)
    *hidden, last = parts["gamma"].get_submodule("maps")
    for layer in hidden:
        inner = silu(affine(layer, inner))
    out = affine(last, inner)
    if isinstance(parts["bound"], nn.Identity):
        return out
    return parts["bound"].get_parameter("scale").detach().numpy() * np.tanh(out)


def paper_sigma(sigma: nn.Module, signed: bool) -> Array:
    inner = silu(affine(sigma.get_submodule("inner"), np.full((1, 1), T)))
    out = affine(sigma.get_submodule("outer"), inner)
    return out if signed else np.log1p(np.exp(out))


@pytest.mark.parametrize("sigma", ["softplus", "signed"])
@pytest.mark.parametrize("bounded", [True, False])
def test_paper_forms(sigma: str, bounded: bool) -> None:
    z, x = data()
    for layer in (
        LangevinSDE(3, 4, sigma=sigma, bounded=bounded),  # type: ignore[arg-type]
        LinearNoiseSDE(3, 4, sigma=sigma, bounded=bounded),  # type: ignore[arg-type]
        GeometricSDE(3, 4, sigma=sigma),  # type: ignore[arg-type]
    ):
        layer = layer.double()
        timed = not isinstance(layer, LangevinSDE)
        gamma = paper_gamma(layer.gamma, z, x, timed)
        drift = z * gamma if isinstance(layer, GeometricSDE) else gamma
        np.testing.assert_allclose(call(layer.drift, z, x), drift, rtol=1e-10)
        size = paper_sigma(layer.sigma, sigma == "signed") * np.ones_like(z)
        noise = size * z if timed else size
        np.testing.assert_allclose(call(layer.diffusion, z), noise, rtol=1e-10)


@pytest.mark.parametrize("controlled", [False, True])
def test_paper_plain(controlled: bool) -> None:
    layer = NeuralSDE(3, 4, controlled=controlled).double()
    z, x = data()
    want = paper_gamma(layer.f, z, x if controlled else None, timed=True)
    np.testing.assert_allclose(call(layer.drift, z, x), want, rtol=1e-10)
    stacked = np.concatenate([np.full((6, 1), T), z], axis=1)
    inner = silu(affine(layer.g.get_submodule("inner"), stacked))
    want = np.log1p(np.exp(affine(layer.g.get_submodule("outer"), inner)))
    np.testing.assert_allclose(call(layer.diffusion, z), want, rtol=1e-10)


def test_log_geometric_equation() -> None:
    layer = GeometricSDE(3, 4).double()
    path = random_path(6, 3, device=torch.device("cpu"))
    t = torch.tensor(T, dtype=torch.float64)
    x = path.evaluate(t).numpy()
    u, sign = np.random.default_rng(1).normal(size=(6, 4)), np.ones((6, 4))
    sign[::2] = -1
    term = layer.log_term(path, torch.from_numpy(sign))
    sigma = paper_sigma(layer.sigma, signed=False)
    want = paper_gamma(layer.gamma, sign * np.exp(u), x, True) - sigma**2 / 2
    drift = term.drift(t, torch.from_numpy(u)).detach().numpy()
    np.testing.assert_allclose(drift, want, rtol=1e-10)
    noise = term.diffusion(t, torch.from_numpy(u)).detach().numpy()
    np.testing.assert_allclose(noise, np.tile(sigma, (6, 1)), rtol=1e-10)


def test_a_time_per_sample_equals_one_time_for_all() -> None:
    z, x = (torch.from_numpy(a) for a in data())
    t = torch.tensor(T, dtype=torch.float64)
    for kind in (LangevinSDE, LinearNoiseSDE, GeometricSDE, NeuralSDE):
        for form in ("paper", "runtime"):
            layer = kind(3, 4, form=form).double()  # type: ignore[arg-type]
            each = t.expand(6)
            torch.testing.assert_close(layer.drift(t, z, x), layer.drift(each, z, x))
            torch.testing.assert_close(layer.diffusion(t, z), layer.diffusion(each, z))


@pytest.mark.parametrize("kind", [LangevinSDE, LinearNoiseSDE, GeometricSDE])
def test_first_noise_is_small(
    kind: type[LangevinSDE] | type[LinearNoiseSDE] | type[GeometricSDE],
) -> None:
    sigma = kind(3, 64).sigma(torch.linspace(0, 1, 5))
    assert 0.03 < sigma.min().item() and sigma.max().item() < 0.3


def test_options_of_the_other_form_are_refused() -> None:
    with pytest.raises(ValueError, match="gsde_drift"):
        GeometricSDE(3, 4, gsde_drift="tanh")
    with pytest.raises(ValueError, match="one_minus_sigmoid"):
        GeometricSDE(3, 4, form="runtime", gsde_drift="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bounds its drift"):
        LangevinSDE(3, 4, form="runtime", bounded=False)
    with pytest.raises(ValueError, match="sigma='signed'"):
        LinearNoiseSDE(3, 4, form="runtime", sigma="signed")
    with pytest.raises(ValueError, match="form is 'theory'"):
        LinearNoiseSDE(3, 4, form="theory")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise is 'additive'"):
        LangevinSDE(3, 4, noise="additive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma is 'relu'"):
        LangevinSDE(3, 4, sigma="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layers 0"):
        LangevinSDE(3, 4, layers=0)
