"""Newton's method for softmax(W u + b): multinomial logistic regression on log-probabilities u."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PIECE = 1 << 17  # scores at a time, so that what is made of them stays in the cache


def affine(u: Tensor, theta: Tensor) -> Tensor:
    """W u + b for rows u [N, K]; theta holds W (a number, a diagonal [K] or [K, K]), then b [K]."""
    k = u.shape[1]
    w, b = theta[:-k], theta[-k:]
    return torch.addmm(b, u, w.view(k, k).T) if len(w) > k else torch.addcmul(b, u, w)


def newton(
    u: Tensor,
    labels: Tensor,
    centre: Tensor,
    penalty: Callable[[Tensor], Tensor],
    start: Tensor | None = None,
    tolerance: float = 1e-10,
) -> tuple[Tensor, float]:
    """The theta for which Σ NLL + ½ dᵀQ d is least, d = theta − centre, and that value. In float64.

    `penalty(d)` is Q d, positive definite: the minimum exists on separable data too. Each step
    solves H x = g by conjugate gradients, which never form the Hessian H, and is halved until it
    descends; the last one, taken too, promises less than `tolerance`/2 nats in all.
    """
    k, size = u.shape[1], max(1, _PIECE // u.shape[1])
    p = torch.empty_like(u)
    pieces = list(zip(u.split(size), labels.split(size), p.split(size), strict=True))
    theta = centre if start is None else start
    full, tied = len(theta) > 2 * k, len(theta) == k + 1

    def adjoint(part: Tensor, r: Tensor) -> Tensor:
        w = r.T @ part if full else (r * part).sum() if tied else (r * part).sum(0)
        return torch.cat([w.flatten(), r.sum(0)])

    def loss(theta: Tensor) -> float:
        total = float((theta - centre) @ penalty(theta - centre)) / 2
        for part, own, here in pieces:
            log_p = torch.log_softmax(affine(part, theta), 1)
            total -= float(log_p.gather(1, own[:, None]).sum())
            torch.exp(log_p, out=here)
        return total

    def product(d: Tensor) -> Tensor:
        value = penalty(d)
        for part, _, here in pieces:
            s = affine(part, d)
            value = value + adjoint(part, here * (s - torch.linalg.vecdot(here, s)[:, None]))
        return value

    value = loss(theta)
    for _ in range(100):
        gradient, diagonal = penalty(theta - centre), penalty(torch.ones_like(theta))
        for part, own, here in pieces:
            minus = part.new_full((len(own), 1), -1.0)
            gradient = gradient + adjoint(part, here.scatter_add(1, own[:, None], minus))
            around = part - torch.linalg.vecdot(here, part)[:, None] if tied else part
            squares, q = around.square(), here * (1 - here)
            w = q.T @ squares if full else (here * squares).sum() if tied else (q * squares).sum(0)
            diagonal = diagonal + torch.cat([w.flatten(), q.sum(0)])
        step = _conjugate(product, gradient, diagonal)
        promise, length = float(gradient @ step), 1.0
        if promise < tolerance:
            return theta - step, value - promise / 2
        slack = 1e-13 * abs(value)  # what rounding leaves open
        while (new := loss(theta - length * step)) > value - 1e-4 * length * promise + slack:
            length /= 2
        theta, value = theta - length * step, new
    return theta, value


def _conjugate(product: Callable[[Tensor], Tensor], g: Tensor, diagonal: Tensor) -> Tensor:
    """H⁻¹ g by conjugate gradients, preconditioned by H's diagonal; the closer, the smaller g."""
    x, r = torch.zeros_like(g), g
    d = g / diagonal
    size = float(g @ d)
    enough = size * min(1e-2, max(size, 1e-10))
    for _ in range(1000):
        if size <= enough:
            break
        h = product(d)
        step = size / float(d @ h)
        x, r = x + step * d, r - step * h
        before, size = size, float(r @ (r / diagonal))
        d = r / diagonal + size / before * d
    return x
