"""Minimises the discrete energy of many decoded curves at once: L-BFGS preconditioned by one Gauss–Newton matrix.

The energy of a curve of ``n`` points, ``(n − 1) Σ ‖D(γ_{i+1}) − D(γ_i)‖²``, is a sum of squares in which only
neighbours meet. With ``J_i = ∂D/∂γ_i`` its Gauss–Newton matrix is block tridiagonal,

    H_ii = 4(n − 1) J_iᵀJ_i,    H_{i,i+1} = −2(n − 1) J_iᵀJ_{i+1},

and a Cholesky factorisation solves with it in O(n d³) (Golub, Van Loan 2013, § 4.5.1). It knows the stiffness of the
chain (condition number ~ n²) and the metric, which are what slows down gradient descent; what it leaves out, the
curvature of the decoder along the curve, is learned by L-BFGS (Nocedal, Wright 2006, algorithm 7.4) with ``H⁻¹`` as its
initial matrix. So Jacobians (``d`` forward-mode derivatives per point) are needed at every ninth iteration only, and
the others cost one forward and one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from geovq.errors import InputError
from geovq.geometry.computing import forward_mode

Decode = Callable[[Tensor], Tensor]
"""Latent points ``(T, d)`` to outputs ``(T, …)``, each row on its own."""

# Iterations after which the Gauss–Newton matrix is computed anew, and the memory of L-BFGS with it (measured on a
# convolutional decoder with random weights: less than half the iterations that one matrix for all takes).
_MEMORY = 8
_ARMIJO = 1e-4
_HALVINGS = 12
# Added to the diagonal, as a share of its mean: directions the decoder ignores would make the matrix singular.
_DAMPING = 1e-6
# Numbers of Jacobian held at a time, 256 MB in float64.
_JACOBIAN_NUMBERS = 32_000_000


def minimise_energy(decode: Decode, start: Tensor, max_iter: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Move the inner points of every curve of ``start`` so that its energy falls; it never rises.

    Args:
        decode: see ``Decode``.
        start: ``(B, n, d)`` curves; their ends stay.
        max_iter: iterations.
        tolerance: a curve has converged when its step is predicted to lower the energy by less than this share.

    Returns:
        ``(B, n, d)`` curves, ``(B,)`` iterations spent on each, ``(B,)`` whether it converged.

    Raises:
        InputError: outputs that are not finite at the start.
    """
    points = start.clone()
    energy, gradient = energy_and_gradient(decode, points)
    if not bool(torch.isfinite(energy).all() and torch.isfinite(gradient).all()):
        bad = int((~(torch.isfinite(energy) & torch.isfinite(gradient).all(dim=(1, 2)))).nonzero()[0])
        raise InputError(f"the decoder's outputs or derivatives are not finite on path {bad}; check its weights")
    tolerance = max(tolerance, 100 * torch.finfo(energy.dtype).eps)
    n_iter = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    active = torch.arange(len(start), device=start.device)
    solve, rows = gauss_newton_solver(decode, points), active
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(max_iter):
        recent = [(step[active], change[active], inverse[active]) for step, change, inverse in memory]
        direction = _direction(gradient[active], recent, solve, rows)
        slope = _inner(gradient[active], direction)
        done = -slope / 2 <= tolerance * energy[active]
        converged[active[done]] = True
        active, rows, direction, slope = active[~done], rows[~done], direction[~done], slope[~done]
        if len(active) == 0:
            break
        n_iter[active] += 1
        moved, new_energy, new_gradient, accepted = _line_search(
            decode, points[active], energy[active], gradient[active], direction, slope
        )
        step, change = torch.zeros_like(gradient), torch.zeros_like(gradient)
        step[active] = (moved - points[active])[:, 1:-1]
        change[active] = new_gradient - gradient[active]
        points[active], energy[active], gradient[active] = moved, new_energy, new_gradient
        if not memory and not bool(accepted.all()):  # not even the newest linearisation leads on
            active, rows = active[accepted], rows[accepted]
        elif len(memory) < _MEMORY and bool(accepted.all()):
            memory.append(_curvature_pair(step, change))
        else:  # the linearisation has aged, or what was learned misleads some curve
            memory, solve = [], gauss_newton_solver(decode, points[active])
            rows = torch.arange(len(active), device=active.device)
    return points, n_iter, converged


def energy_and_gradient(decode: Decode, points: Tensor) -> tuple[Tensor, Tensor]:
    """Energies ``(B,)`` of curves ``(B, n, d)`` and their gradients ``(B, n − 2, d)`` at the inner points."""
    with torch.enable_grad():
        variable = points.detach().requires_grad_(True)
        outputs = decode(variable.flatten(0, 1)).reshape(*points.shape[:2], -1)
        energy = (points.shape[1] - 1) * outputs.diff(dim=1).square().sum(dim=(1, 2))
        (gradient,) = torch.autograd.grad(energy.sum(), variable)
    return energy.detach(), gradient[:, 1:-1]


def gauss_newton_solver(decode: Decode, points: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """``solve(right (b, n − 2, d), curves (b,))``: the inverse of the damped Gauss–Newton matrix at ``points``.

    ``right`` are right-hand sides, ``curves`` the rows of ``points`` they belong to. Works in float64, since the matrix
    of an anisotropic metric is badly conditioned; results come in the dtype of ``right``.
    """
    diagonal, neighbouring = _jacobian_products(decode, points)
    segments, dimension = points.shape[1] - 1, points.shape[2]
    diagonal, neighbouring = 4 * segments * diagonal, -2 * segments * neighbouring
    mean = diagonal.diagonal(dim1=2, dim2=3).mean(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    damping = _DAMPING * mean[:, None, None] * torch.eye(dimension, dtype=mean.dtype, device=mean.device)
    # H = L Lᵀ with lower blocks F_i on the diagonal and C_iᵀ below it.
    factors, couplings = [torch.linalg.cholesky(diagonal[:, 0] + damping)], []
    for i in range(1, diagonal.shape[1]):
        coupling = torch.linalg.solve_triangular(factors[-1], neighbouring[:, i - 1], upper=False)
        couplings.append(coupling)
        factors.append(torch.linalg.cholesky(diagonal[:, i] + damping - coupling.mT @ coupling))

    def solve(right: Tensor, curves: Tensor) -> Tensor:
        columns = list(right.double()[..., None].unbind(dim=1))
        lower, coupling = [factor[curves] for factor in factors], [block[curves] for block in couplings]
        for i in range(len(columns)):
            if i > 0:
                columns[i] = columns[i] - coupling[i - 1].mT @ columns[i - 1]
            columns[i] = torch.linalg.solve_triangular(lower[i], columns[i], upper=False)
        for i in reversed(range(len(columns))):
            if i < len(columns) - 1:
                columns[i] = columns[i] - coupling[i] @ columns[i + 1]
            columns[i] = torch.linalg.solve_triangular(lower[i].mT, columns[i], upper=True)
        return torch.stack(columns, dim=1)[..., 0].to(right.dtype)

    return solve


def _jacobian_products(decode: Decode, points: Tensor) -> tuple[Tensor, Tensor]:
    """``J_iᵀJ_i`` ``(B, n − 2, d, d)`` and ``J_iᵀJ_{i+1}`` ``(B, n − 3, d, d)`` of the inner points, float64.

    Products in float64 too: those of rounded Jacobians make a semidefinite matrix, rounded products need not.
    """
    inner = points[:, 1:-1]
    dimension = points.shape[2]
    with forward_mode():
        numbers = decode(inner[0, :1]).numel() * dimension * inner.shape[1]
        directions = torch.eye(dimension, dtype=points.dtype, device=points.device)
        diagonal, neighbouring = [], []
        for part in inner.split(max(1, _JACOBIAN_NUMBERS // numbers)):
            flat = part.flatten(0, 1)
            columns = [jvp(decode, (flat,), (e.expand_as(flat),))[1].flatten(1) for e in directions]
            rows = torch.stack(columns, dim=1).double().unflatten(0, part.shape[:2])  # (b, n − 2, d, outputs): Jᵀ
            diagonal.append(rows @ rows.mT)
            neighbouring.append(rows[:, :-1] @ rows[:, 1:].mT)
    return torch.cat(diagonal), torch.cat(neighbouring)


def _direction(
    gradient: Tensor,
    memory: list[tuple[Tensor, Tensor, Tensor]],
    solve: Callable[[Tensor, Tensor], Tensor],
    curves: Tensor,
) -> Tensor:
    """``−H g`` by the two-loop recursion, each curve with its own memory."""
    descent = -gradient
    weights = []
    for step, change, inverse in reversed(memory):
        weight = inverse * _inner(step, descent)
        descent = descent - weight[:, None, None] * change
        weights.append(weight)
    descent = solve(descent, curves)
    for (step, change, inverse), weight in zip(memory, reversed(weights), strict=True):
        descent = descent + (weight - inverse * _inner(change, descent))[:, None, None] * step
    return descent


def _curvature_pair(step: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step, change of gradient and ``1/stepᵀchange``, which is 0 (no memory) where the energy is not convex."""
    product = _inner(step, change)
    threshold = torch.finfo(step.dtype).eps * step.flatten(1).norm(dim=1) * change.flatten(1).norm(dim=1)
    return step, change, torch.where(product > threshold, 1 / product, torch.zeros_like(product))


def _line_search(
    decode: Decode, points: Tensor, energy: Tensor, gradient: Tensor, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each curve's step until its energy falls enough (Armijo); curves that never do stay where they are.

    Returns points, energies, gradients and which curves moved.
    """
    points, energy, gradient = points.clone(), energy.clone(), gradient.clone()
    waiting = torch.arange(len(points), device=points.device)
    share = 1.0
    for _ in range(_HALVINGS):
        trial = points[waiting]
        trial[:, 1:-1] += share * direction[waiting]
        trial_energy, trial_gradient = energy_and_gradient(decode, trial)
        # Infinite and undefined energies compare as no improvement.
        good = trial_energy <= energy[waiting] + _ARMIJO * share * slope[waiting]
        good &= trial_gradient.isfinite().all(dim=2).all(dim=1)
        moved = waiting[good]
        points[moved], energy[moved], gradient[moved] = trial[good], trial_energy[good], trial_gradient[good]
        waiting = waiting[~good]
        if len(waiting) == 0:
            break
        share /= 2
    accepted = torch.ones(len(points), dtype=torch.bool, device=points.device)
    accepted[waiting] = False
    return points, energy, gradient, accepted


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2))
