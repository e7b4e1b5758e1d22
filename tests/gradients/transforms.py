"""The transforms of PyTorch, each as a function of a function and a point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, func
from torch.autograd import forward_ad

F64 = torch.float64
Function = Callable[[Tensor], Tensor]
Transform = Callable[[Function, Tensor], Tensor]


def scalar(y: Tensor) -> Tensor:
    """A number in which every entry counts, each with another weight."""
    return (torch.sin(1.3 * y + 0.4) * torch.arange(1, y.numel() + 1, dtype=y.dtype).view(y.shape)).sum()


def rows(x: Tensor) -> Tensor:
    return torch.stack([x, 1.1 * x, 0.7 * x])


def backward(times: int) -> Transform:
    """The derivative of that order of ``scalar(f(x))``, of the order before with ``scalar`` again between them."""

    def derivative(f: Function, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = f(x)
        for left in reversed(range(times)):
            (y,) = torch.autograd.grad(scalar(y), x, create_graph=left > 0)
        return y

    return derivative


def backward_of_vmap(f: Function, x: Tensor) -> Tensor:
    many = rows(x).requires_grad_()
    return torch.autograd.grad(scalar(func.vmap(f)(many)), many)[0]


def dual(f: Function, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.cos(x)))).tangent
        return torch.zeros_like(x) if tangent is None else tangent


def loss(f: Function) -> Function:
    return lambda x: scalar(f(x))


TRANSFORMS: dict[str, Transform] = {
    "backward": backward(1),
    "double backward": backward(2),
    "triple backward": backward(3),
    "forward_ad": dual,
    "grad": lambda f, x: func.grad(loss(f))(x),
    "vjp": lambda f, x: func.vjp(loss(f), x)[1](torch.tensor(0.7, dtype=F64))[0],
    "jvp": lambda f, x: func.jvp(f, (x,), (torch.cos(x),))[1],
    "jacrev": lambda f, x: func.jacrev(f)(x),
    "jacfwd": lambda f, x: func.jacfwd(f)(x),
    "hessian": lambda f, x: func.hessian(loss(f))(x),
    "grad(grad)": lambda f, x: func.grad(lambda x: scalar(func.grad(loss(f))(x)))(x),
    "jvp(grad)": lambda f, x: func.jvp(func.grad(loss(f)), (x,), (torch.cos(x),))[1],
    "vmap": lambda f, x: func.vmap(f)(rows(x)),
    "vmap(grad)": lambda f, x: func.vmap(func.grad(loss(f)))(rows(x)),
    "grad(vmap)": lambda f, x: func.grad(lambda xs: scalar(func.vmap(f)(xs)))(rows(x)),
    "backward of vmap": backward_of_vmap,
}

OVER_ROWS = ("vmap", "vmap(grad)", "grad(vmap)", "backward of vmap")
