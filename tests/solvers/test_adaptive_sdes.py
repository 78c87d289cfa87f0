"""Adaptive steps along a Brownian path converge to the right limits."""

import math

import pytest
import torch
from fine_path import tree
from problems import KIND, normal
from torch import Tensor

from nde.solvers import PID, SDE_METHODS, FixedSteps, SDETerm, solve


def adaptive(kind: str, noise: str) -> list[str]:
    return [
        name
        for name, method in SDE_METHODS.items()
        if method.error_order is not None
        and kind in method.interpretations
        and noise in method.noises
    ]


def root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


MU, SIGMA = 0.5, 0.8


def growth_error(name: str, kind: str, rtol: float, f64: KIND) -> tuple[float, Tensor]:
    """Of geometric Brownian motion at four times, and its steps."""
    term = SDETerm(lambda t, y: MU * y, lambda t, y: SIGMA * y, interpretation=kind)
    noise = tree(200, 1, f64)
    ts = torch.linspace(0, 1, 4, **f64)
    sol = solve(
        term,
        torch.ones(200, 1, **f64),
        ts,
        method=name,
        controller=PID(rtol, rtol),
        noise=noise,
    )
    w = torch.stack([noise.increment(0.0, t).w for t in ts.tolist()], dim=1)
    mean = MU - (SIGMA**2 / 2 if kind == "ito" else 0.0)
    exact = torch.exp(mean * ts[:, None] + SIGMA * w)
    return root_mean_square(sol.ys - exact), sol.stats.accepted.double()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(k, m) for k in ("ito", "stratonovich") for m in adaptive(k, "diagonal")],
)
def test_geometric_brownian_motion(kind: str, name: str, f64: KIND) -> None:
    """The error of fixed steps of that number, or less, and shrinking with them."""
    coarse, few = growth_error(name, kind, 1e-1, f64)
    fine, many = growth_error(name, kind, 3e-3, f64)
    assert many.mean() > 2.5 * few.mean()
    order = SDE_METHODS[name].orders.get("diagonal", 0.5)
    assert fine < coarse * float(few.mean() / many.mean()) ** (0.75 * order)


def swirl(t: Tensor, y: Tensor) -> Tensor:
    """dy_1 = dW_1 and dy_2 = y_1 dW_2, whose fields do not commute."""
    one, x = torch.ones_like(y[:, 0]), y[:, 0]
    none = torch.zeros_like(x)
    return torch.stack([torch.stack([one, none], 1), torch.stack([none, x], 1)], 1)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(k, m) for k in ("ito", "stratonovich") for m in adaptive(k, "general")],
)
def test_noise_that_does_not_commute(kind: str, name: str, f64: KIND) -> None:
    """Ito and Stratonovich forms are the same: int W_1 dW_2, from a fine grid."""
    noise, steps = tree(400, 2, f64, seed=11), 2**11
    t = torch.arange(steps, **f64) / steps
    w = noise.increments(t, torch.full_like(t, 1 / steps), "none").w
    left = w.cumsum(0) - w
    want = ((left + w / 2)[:, :, 0] * w[:, :, 1]).sum(0)
    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        swirl,
        noise="general",
        noise_dim=2,
        interpretation=kind,
    )
    errors = []
    for rtol in (1e-1, 1e-2, 2e-3):
        sol = solve(
            term,
            torch.zeros(400, 2, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method=name,
            controller=PID(rtol, rtol),
            noise=noise,
        )
        errors.append(sol.final[:, 1] - want)
    sizes = [root_mean_square(e) for e in errors]
    assert sizes[2] < 0.7 * sizes[1] < 0.5 * sizes[0]
    assert abs(float(errors[2].mean())) < 4 * sizes[2] / 400**0.5


def crossed(t: Tensor, y: Tensor) -> Tensor:
    """dy_1 = dW_1 and dy_2 = y_1 dW_2 again, said to be diagonal."""
    return torch.stack([torch.ones_like(y[:, 0]), y[:, 0]], 1)


def late(t: Tensor, y: Tensor) -> Tensor:
    """Entries 2 and 7 of eight depend on each other."""
    own = 1 + 0.1 * y.square()
    return torch.cat([own[:, :2], y[:, 7:], own[:, 3:7], y[:, 2:3]], dim=1)


OWN = [
    (name, kind)
    for name, method in SDE_METHODS.items()
    for kind in method.own_noise
    if method.error_order is not None
]


@pytest.mark.parametrize(("name", "kind"), OWN)
@pytest.mark.parametrize("batch", ["per_sample", "shared"])
def test_noise_that_depends_on_other_entries_is_refused(
    name: str, kind: str, batch: str, f64: KIND
) -> None:
    ts = torch.tensor([0.0, 1.0], **f64)
    options = {"method": name, "controller": PID(0.1, 0.1), "batch": batch, "noise": 1}

    def zero(t: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    for noise, width in ((crossed, 2), (late, 8)):
        term = SDETerm(zero, noise, interpretation=kind)
        with pytest.raises(ValueError, match="entry .* others.*fixed length"):
            solve(term, torch.full((3, width), 0.5, **f64), ts, **options)
    # Where the initial state shows nothing: products at zero, and a gate that opens.
    hidden = SDETerm(zero, lambda t, y: y * y.flip(1), interpretation=kind)
    gate = SDETerm(
        lambda t, y: torch.full_like(y, 4.0),
        lambda t, y: 0.1 + torch.relu(y.flip(1)),
        interpretation=kind,
    )
    with pytest.raises(ValueError, match="entry .* others"):
        solve(hidden, torch.full((3, 2), 0.0, **f64), ts, **options)
    with pytest.warns(UserWarning, match="entry .* others.*where the solve ended"):
        solve(gate, torch.full((3, 2), -1.0, **f64), ts, **options)
    for own in (lambda t, y: 1 + y**2 / 9, lambda t, y: torch.rand_like(y)):
        term = SDETerm(zero, own, interpretation=kind)
        assert solve(term, torch.ones(3, 8, **f64), ts, **options).ys.isfinite().all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (m, k)
        for k in ("ito", "stratonovich")
        for m in adaptive(k, "diagonal")
        if (m, k) not in OWN
    ],
)
def test_diagonal_noise_that_depends_on_other_entries(
    name: str, kind: str, f64: KIND
) -> None:
    """No bias, and an error that shrinks: int W_1 dW_2 once more."""
    noise, steps = tree(1000, 2, f64, seed=12), 2**10
    t = torch.arange(steps, **f64) / steps
    w = noise.increments(t, torch.full_like(t, 1 / steps), "none").w
    want = ((w.cumsum(0) - w / 2)[:, :, 0] * w[:, :, 1]).sum(0)
    errors = []
    for rtol in (1e-1, 5e-3):
        sol = solve(
            SDETerm(lambda t, y: torch.zeros_like(y), crossed, interpretation=kind),
            torch.zeros(1000, 2, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method=name,
            controller=PID(rtol, rtol),
            noise=noise,
        )
        errors.append(sol.final[:, 1] - want)
    coarse, fine = (root_mean_square(e) for e in errors)
    assert fine < 0.5 * coarse
    # The midpoint rule on the fine grid errs by 0.011 itself.
    assert abs(float(errors[1].mean())) < 4 * fine / 1000**0.5


def rotor(t: Tensor, y: Tensor) -> Tensor:
    """dy_3 = y_1 dW_2 - y_2 dW_1 beside both motions: a Levy area and nothing else."""
    one, none = torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])
    rows = ((one, none), (none, one), (-y[:, 1], y[:, 0]))
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(k, m) for k in ("ito", "stratonovich") for m in adaptive(k, "general")],
)
def test_errors_that_the_motion_alone_does_not_show(
    kind: str, name: str, f64: KIND
) -> None:
    """The area has variance 1; the mean of what steps resolve of it grows to that."""
    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        rotor,
        noise="general",
        noise_dim=2,
        interpretation=kind,
    )
    ts, variances, counts = torch.tensor([0.0, 1.0], **f64), [], []
    for rtol in (1e-1, 1e-2):
        sol = solve(
            term,
            torch.zeros(2000, 3, **f64),
            ts,
            method=name,
            controller=PID(rtol, rtol),
            noise=4,
        )
        variances.append(float(sol.final[:, 2].var()))
        counts.append(float(sol.stats.accepted.double().mean()))
    assert counts[1] > 2 * counts[0]
    assert abs(variances[1] - 1) < 0.15


def test_motions_that_cancel(f64: KIND) -> None:
    """dy = y (0.7 dW_1 - 0.7 dW_2), as one entry, and as the difference of two."""
    noise, sizes = tree(500, 2, f64), torch.tensor([0.7, -0.7], **f64)
    w = (noise.increment(0.0, 1.0).w * sizes).sum(dim=1, keepdim=True)
    exact = torch.exp(w - 0.49)
    both = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: y.unsqueeze(2) * sizes,
        noise="general",
        noise_dim=2,
    )
    apart = SDETerm(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: 0.7 * (y[:, :1] - y[:, 1:]).expand(-1, 2).clone(),
    )
    start = torch.tensor([[1.0, 0.0]], **f64).repeat(500, 1)
    for term, y0 in ((both, start[:, :1]), (apart, start)):
        errors = []
        for rtol in (1e-1, 1e-3):
            sol = solve(
                term,
                y0,
                torch.tensor([0.0, 1.0], **f64),
                method="lamba_em",
                controller=PID(rtol, rtol),
                noise=noise,
            )
            got = sol.final if term is both else sol.final.diff(dim=1).neg()
            errors.append(root_mean_square(got - exact))
        assert errors[1] < 0.5 * errors[0]


TIMED = [
    (name, "ito") for name in adaptive("ito", "diagonal") if name != "sosri2_sum"
] + [(name, "stratonovich") for name in adaptive("stratonovich", "diagonal")]


@pytest.mark.parametrize(
    ("name", "kind"), [*TIMED, ("shark", "ito"), ("sosra2", "ito")]
)
def test_noise_that_depends_on_time_alone(name: str, kind: str, f64: KIND) -> None:
    """int cos(20 t) dW, of variance 1/2 + sin(40) / 80."""
    additive = "diagonal" not in SDE_METHODS[name].noises

    def swing(t: Tensor, y: Tensor) -> Tensor:
        value = torch.cos(20 * t)[:, None] * torch.ones_like(y)
        return value.unsqueeze(2) if additive else value

    term = SDETerm(
        lambda t, y: torch.zeros_like(y),
        swing,
        noise="additive" if additive else "diagonal",
        noise_dim=1 if additive else None,
        interpretation=kind,
    )
    sol = solve(
        term,
        torch.zeros(3000, 1, **f64),
        torch.tensor([0.0, 1.0], **f64),
        method=name,
        controller=PID(2e-2, 2e-2),
        noise=3,
    )
    variance = 0.5 + math.sin(40.0) / 80
    assert abs(float(sol.final.var()) / variance - 1) < 0.12
    assert int(sol.stats.accepted.min()) > 8


@pytest.mark.parametrize("name", ["milstein", "sosri2"])
def test_the_check_of_noise_harms_no_solve(name: str, f64: KIND) -> None:
    """Of a diffusion that is particular about its states, or diagonal to rounding."""
    q = torch.linalg.qr(normal((3, 3), 1, **f64))[0]

    def positive(t: Tensor, y: Tensor) -> Tensor:
        assert bool((y > 0).all())
        return 0.05 * y

    for noise in (positive, lambda t, y: 0.1 * (y @ q) @ q.T):
        sol = solve(
            SDETerm(lambda t, y: 0.05 * y, noise),
            torch.full((4, 3), 0.05, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method=name,
            controller=PID(1e-2, 1e-3),
            noise=2,
        )
        assert sol.ys.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("stratonovich", "euler_heun"),
        ("stratonovich", "milstein"),
        ("stratonovich", "milstein_grad_free"),
        ("stratonovich", "lamba_euler_heun"),
        ("ito", "milstein"),
        ("ito", "milstein_grad_free"),
    ],
)
def test_steps_are_not_chosen_by_the_sign_of_the_noise(
    kind: str, name: str, f64: KIND
) -> None:
    """dY = (5 (2 - Y) - s^2 Y / 2) dt + s (1 + Y^2)^(1/2) o dB has a known mean.

    Where drift and noise parts of an estimate cancel for one sign of W, the mean error
    along the path of a fine solve was .055 here, half of its root mean square.
    """
    s = 0.8
    correction = 0.0 if kind == "stratonovich" else 0.5 * s**2
    term = SDETerm(
        lambda t, y: 5 * (2 - y) - (0.5 * s**2 - correction) * y,
        lambda t, y: s * (1 + y**2).sqrt(),
        interpretation=kind,
    )
    samples = 1500
    noise = tree(samples, 1, f64, t1=2.0)
    ends = [
        solve(
            term if method == name else fine,
            torch.full((samples, 1), 0.3, **f64),
            torch.tensor([0.0, 2.0], **f64),
            method=method,
            controller=PID(rtol, rtol),
            noise=noise,
        ).final
        for method, rtol, fine in (
            (name, 3e-2, term),
            (
                "heun",
                1e-3,
                SDETerm(
                    lambda t, y: 5 * (2 - y) - 0.5 * s**2 * y,
                    term.diffusion,
                    interpretation="stratonovich",
                ),
            ),
        )
    ]
    error = ends[0] - ends[1]
    assert abs(float(error.mean())) < 0.02


@pytest.mark.parametrize("name", ["milstein", "milstein_grad_free"])
def test_the_mean_error_is_that_of_a_fixed_grid(name: str, f64: KIND) -> None:
    """Of geometric Brownian motion, with as many steps along the same paths. A
    correction by differences that is judged by W^2 - h itself had four times it."""
    noise = tree(2000, 1, f64)
    exact = torch.exp(MU - SIGMA**2 / 2 + SIGMA * noise.increment(0.0, 1.0).w)
    term = SDETerm(lambda t, y: MU * y, lambda t, y: SIGMA * y)

    def solved(controller: object) -> tuple[float, float]:
        sol = solve(
            term,
            torch.ones(2000, 1, **f64),
            torch.tensor([0.0, 1.0], **f64),
            method=name,
            controller=controller,
            noise=noise,
        )
        steps = float(sol.stats.accepted.double().mean())
        return float((sol.final - exact).mean()), steps

    adapted, steps = solved(PID(1e-2, 1e-2))
    fixed, _ = solved(FixedSteps(1 / round(steps)))
    assert abs(adapted) < 1.5 * abs(fixed)
