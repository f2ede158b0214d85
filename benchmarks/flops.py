"""Floating-point operations of the matrix products and convolutions in a JAX function.

Counted from the jaxpr, that is from what the mathematics asks for, not from what a compiler makes
of it: XLA's own cost analysis leaves out what it hands to a library. A multiply-add is two
operations. FFTs and elementwise arithmetic are left out, as is usual for model FLOP utilisation.
"""

import math
from typing import Any

import jax
from jax.extend import core


def count(function, *arguments) -> int:
    """Operations of one call."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, given = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * summed
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            spec = given["dimension_numbers"].rhs_spec  # (out, in, spatial ...)
            taps = math.prod(kernel[axis] for axis in spec[1:])
            # Of a dilated input (the gradient of a strided convolution) most taps meet zeros.
            taps /= math.prod(given["lhs_dilation"])
            total += int(2 * math.prod(equation.outvars[0].aval.shape) * taps)
        else:
            times = given["length"] if name == "scan" else 1
            total += times * sum(map(_of_jaxpr, _inner(given)))
    return total


def _inner(given: dict[str, Any]) -> list[Any]:
    found = []
    for value in given.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found
