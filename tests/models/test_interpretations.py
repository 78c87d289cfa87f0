"""Ito and Stratonovich hand-outs of one layer: same law, by rule and by simulation."""

import math
from typing import Any

import pytest
import torch
from models.series import Constant, Pull, constant_path, random_path
from torch import Tensor, nn

from nde.models import GeometricSDE, LangevinSDE, LinearNoiseSDE, NeuralSDE
from nde.solvers import BrownianGrid, FixedSteps, SDETerm, solve

CASES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lnsde": (LinearNoiseSDE, {}),
    "lnsde-scalar": (LinearNoiseSDE, {"noise": "scalar"}),
    "lnsde-runtime": (LinearNoiseSDE, {"form": "runtime"}),
    "lnsde-runtime-scalar": (LinearNoiseSDE, {"form": "runtime", "noise": "scalar"}),
    "gsde": (GeometricSDE, {}),
    "gsde-runtime": (GeometricSDE, {"form": "runtime"}),
    "neural-sde": (NeuralSDE, {}),
    "neural-sde-runtime": (NeuralSDE, {"form": "runtime"}),
}


def noisy(name: str, device: torch.device) -> Any:
    """The layer in float64, its noise turned up so that the correction matters."""
    torch.manual_seed(3)
    kind, options = CASES[name]
    layer: Any = kind(2, 3, width=16, **options).double().to(device)
    with torch.no_grad():
        if name.startswith("neural-sde"):
            layer.g.inner.weight.mul_(3)
            layer.g.outer.weight.mul_(4)
            layer.g.outer.bias.fill_(0.3)
        elif "runtime" in name:
            layer.sigma.net.maps[-1].bias.fill_(1.5)
        else:
            layer.sigma.outer.bias.fill_(0.5)
    return layer


@pytest.mark.parametrize("name", CASES)
def test_half_slope_is_the_derivative(name: str, device: torch.device) -> None:
    """g_i (dg_i/dz_i) / 2 by automatic differentiation, one sample at a time."""
    layer = noisy(name, device)
    z = torch.randn(5, 3, dtype=torch.float64, device=device)
    for t in (torch.tensor(0.4), torch.rand(5)):
        t = t.double().to(device)
        want = []
        for i in range(len(z)):
            ti = t if t.ndim == 0 else t[i : i + 1]

            def g(row: Tensor, ti: Tensor = ti) -> Tensor:
                out: Tensor = layer.diffusion(ti, row.unsqueeze(0))
                return out.squeeze(0)

            jacobian = torch.autograd.functional.jacobian(g, z[i])
            want.append(0.5 * g(z[i]) * jacobian.diagonal())
        got = layer.half_slope(t, z)
        torch.testing.assert_close(got, torch.stack(want).detach(), rtol=1e-9, atol=0)


def final(term: SDETerm, z0: Tensor, method: str, step: float, seed: int = 0) -> Tensor:
    ts = torch.tensor([0.0, 1.0], dtype=z0.dtype, device=z0.device)
    out: Tensor = solve(
        term,
        z0,
        ts,
        method=method,
        controller=FixedSteps(step),
        noise=BrownianGrid(seed),
    ).final
    return out


@pytest.mark.parametrize("name", CASES)
def test_both_solvers_follow_one_process(name: str, device: torch.device) -> None:
    """Under one Brownian path; without the correction they visibly part."""
    layer = noisy(name, device)
    path = random_path(1, 2, device=device)
    path = type(path)(path.times, path.values.expand(400, -1, -1))
    z0 = torch.linspace(0.5, 1.5, 3, dtype=torch.float64, device=device).repeat(400, 1)
    with torch.no_grad():
        ito = layer.term(path, "ito")
        right = layer.term(path, "stratonovich")
        wrong = SDETerm(
            ito.drift, ito.diffusion, noise=ito.noise, interpretation="stratonovich"
        )
        euler = final(ito, z0, "euler", 0.004)
        same = (final(right, z0, "heun", 0.004) - euler).abs().mean()
        parted = (final(wrong, z0, "heun", 0.004) - euler).abs().mean()
    assert same < 0.3 * parted
    assert (euler - z0).abs().mean() > 0.1


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_mean_and_variance_of_geometric_brownian_motion(
    method: str, noise: str, device: torch.device
) -> None:
    """dz = a z dt + s z dW (Ito): mean e^{aT}, variance e^{2aT} (e^{s^2 T} - 1)."""
    a, s = 0.4, 0.5
    layer = LinearNoiseSDE(1, 2, noise=noise)  # type: ignore[arg-type]
    layer.gamma, layer.sigma = Pull(a), Constant(s, 1)
    kind = "ito" if method == "euler" else "stratonovich"
    z0 = torch.ones(40000, 2, device=device)
    term = layer.to(device).term(constant_path(z0[:, :1], 1.0), kind)  # type: ignore[arg-type]
    z = final(term, z0, method, 0.01, seed=6)
    variance = math.exp(2 * a) * (math.exp(s * s) - 1)
    for column in z.T:
        assert column.mean().item() == pytest.approx(math.exp(a), rel=0.02)
        assert column.var().item() == pytest.approx(variance, rel=0.06)
    together = torch.corrcoef(z.T)[0, 1].item()
    assert together == pytest.approx(0.0 if noise == "diagonal" else 1.0, abs=0.02)


def test_noise_without_state_needs_no_correction() -> None:
    path = random_path(2, 2, device=torch.device("cpu"))
    layer = LangevinSDE(2, 3).double()
    z = torch.randn(2, 3, dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    one, other = layer.term(path, "ito"), layer.term(path, "stratonovich")
    assert torch.equal(one.drift(t, z), other.drift(t, z))
    assert (one.interpretation, other.interpretation) == ("ito", "stratonovich")
