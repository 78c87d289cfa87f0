"""The potential drift: a gradient, in every mode of autograd, with a Gibbs law."""

import math

import pytest
import torch
from models.series import Constant, constant_path, random_path
from torch import Tensor, nn

from nde.layers import PotentialDrift
from nde.models import LangevinSDE, SolverSettings

T0 = torch.tensor(0.3)


def drift_and_data() -> tuple[PotentialDrift, Tensor, Tensor]:
    torch.manual_seed(0)
    drift = PotentialDrift(3, 2, width=8, confinement=0.7).double()
    return drift, torch.randn(5, 3).double(), torch.randn(5, 2).double()


def test_drift_runs_down_the_energy() -> None:
    """Against central differences of the energy, which use no autograd."""
    drift, z, x = drift_and_data()
    eps = 1e-5
    got = drift(T0, z, x)
    for i, unit in enumerate(torch.eye(3, dtype=torch.float64)):
        rise = drift.energy(z + eps * unit, x) - drift.energy(z - eps * unit, x)
        torch.testing.assert_close(got[:, i], -rise / (2 * eps), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(drift.confinement, torch.full((3,), 0.7).double())


def test_jacobian_is_symmetric() -> None:
    drift, z, x = drift_and_data()
    z.requires_grad_()
    rows = [
        torch.autograd.grad(drift(T0, z, x)[:, i].sum(), z, retain_graph=True)[0]
        for i in range(3)
    ]
    jacobian = torch.stack(rows, dim=1)
    torch.testing.assert_close(jacobian, jacobian.mT)
    assert (jacobian - torch.diag_embed(jacobian.diagonal(0, 1, 2))).abs().max() > 1e-3


def test_one_drift_in_every_mode_of_autograd() -> None:
    drift, z, x = drift_and_data()
    want = drift(T0, z, x)
    assert want.requires_grad
    with torch.no_grad():
        quiet = drift(T0, z, x)
    with torch.inference_mode():
        inferred = drift(T0, z.clone(), x.clone())
        assert torch.equal(inferred, want)
    assert not quiet.requires_grad
    assert torch.equal(quiet, want.detach())
    assert not z.requires_grad


def test_far_out_it_pulls_back_whatever_the_weights() -> None:
    drift, z, x = drift_and_data()
    with torch.no_grad():
        for p in drift.net.parameters():
            p.mul_(5)
        far = 1e5 * z
        assert bool(((drift(T0, far, x) * far).sum(-1) < 0).all())


def test_gradients_do_not_depend_on_the_adjoint(device: torch.device) -> None:
    found = []
    for adjoint in ("recompute", "direct"):
        torch.manual_seed(1)
        settings = SolverSettings(step=0.25, adjoint=adjoint)  # type: ignore[arg-type]
        layer = LangevinSDE(2, 3, potential=True, solver=settings).double().to(device)
        path = random_path(4, 2, device=device)
        ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
        layer(path, ts, seed=0).final.square().sum().backward()
        grads = {name: p.grad for name, p in layer.named_parameters()}
        # A constant added to the energy moves nothing.
        last = grads.pop("gamma.net.maps.2.bias")
        assert last is None or not last.any()
        assert all(g is not None and bool(g.any()) for g in grads.values())
        found.append(grads)
    torch.testing.assert_close(found[0], found[1])


def test_training_and_evaluation_give_one_path(device: torch.device) -> None:
    torch.manual_seed(1)
    layer = LangevinSDE(2, 3, potential=True).to(device).double()
    path = random_path(4, 2, device=device)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    want = layer(path, ts, seed=0).final
    with torch.no_grad():
        assert torch.equal(layer(path, ts, seed=0).final, want)
    with torch.inference_mode():
        assert torch.equal(layer(path, ts, seed=0).final, want)


class DoubleWell(nn.Module):
    """z^4 / 4 beside the confinement's z^2 / 2, so that U = z^4 / 4 - z^2 / 2."""

    def forward(self, z: Tensor) -> Tensor:
        square = z.square()
        return (square.square() / 4 - square).sum(-1, keepdim=True)


def test_gibbs_moments_of_the_double_well(device: torch.device) -> None:
    """sigma = 1: density exp(-2 U), E z^2 = .8935, E z^4 = 1.3935 by quadrature."""
    torch.manual_seed(0)
    layer = LangevinSDE(1, 1, potential=True, solver=SolverSettings(step=0.02))
    layer = layer.to(device)
    assert isinstance(layer.gamma, PotentialDrift)
    layer.gamma.net = DoubleWell()  # type: ignore[assignment]
    # The potential sees z alone.
    layer.gamma.energy = (  # type: ignore[method-assign]
        lambda z, x=None, own=layer.gamma.energy: own(z)
    )
    layer.sigma = Constant(1.0, 1)
    z0 = torch.zeros(20000, 1, device=device)
    # Long enough for the wells to exchange: the moments are even, and settle by T = 5.
    ts = torch.tensor([0.0, *torch.arange(6.0, 16.5, 1.0).tolist()], device=device)
    with torch.no_grad():
        layer.initial.weight.fill_(1.0)
        layer.initial.bias.zero_()
        z = layer(constant_path(z0, 16.0), ts, seed=7).ys[:, 1:, 0]
    # Quadrature of the same density, by itself.
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    density = torch.exp(-2 * (grid**4 / 4 - grid**2 / 2))
    second = (density * grid**2).sum() / density.sum()
    fourth = (density * grid**4).sum() / density.sum()
    assert second.item() == pytest.approx(0.8935, abs=1e-4)
    assert fourth.item() == pytest.approx(1.3935, abs=1e-4)
    assert z.square().mean().item() == pytest.approx(0.8935, abs=0.03)
    assert z.square().square().mean().item() == pytest.approx(1.3935, abs=0.03)
    assert abs(z.mean().item()) < 4 * z.mean(1).std().item() / math.sqrt(len(z))


def test_options_that_make_no_potential_are_refused() -> None:
    with pytest.raises(ValueError, match="potential=True is for form='paper'"):
        LangevinSDE(3, 4, form="runtime", potential=True)
    with pytest.raises(ValueError, match="confinement is 0"):
        PotentialDrift(3, 2, width=4, confinement=0)
    with pytest.raises(ValueError, match="layers 0"):
        PotentialDrift(3, 2, width=4, layers=0)
