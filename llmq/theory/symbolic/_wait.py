r"""WAIT and Nested WAIT in symbols.

Numeric twins: :func:`llmq.fluid.wait_equilibrium`, :func:`llmq.fluid.nested_wait_exponent`. The
``load`` of WAIT is that of its fluid region, :math:`\Lambda (d_1 + d_0 / M)`: the memory that the
equilibrium holds is at most ``M`` if and only if it is at most 1, so WAIT is the memory facet of
Theorem U. The equilibrium itself exists while :math:`d_1 \Lambda < 1`.

The exponent of Nested WAIT has no closed form; its ``equation`` is 0 there, and Hoeffding's lemma
bounds it from below. Not covered: the thresholds as a policy, evictions.
"""

from __future__ import annotations

from typing import Any

from llmq.result import Kind
from llmq.theory.symbolic._family import Formulas, family
from llmq.theory.symbolic._names import symbols

__all__ = ["nested_wait", "wait"]


def wait(classes: tuple[str, ...]) -> Formulas:
    """Return the fluid equilibrium of WAIT.

    Examples
    --------
    >>> rest = wait(("a", "b"))
    >>> rest.memory.exact(d0=0.01, d1=1e-7, rate_a=8, prompt_a=100, output_a=50,
    ...                   rate_b=4, prompt_b=200, output_b=100)
    Fraction(1900000, 1231)
    """
    d0, d1, memory = symbols("d0", "d1", "kv_tokens")
    columns = [symbols(f"rate_{k}", f"prompt_{k}", f"output_{k}") for k in classes]
    area = sum(rate * (o + 1) * (s + o / 2) for rate, s, o in columns)
    interval = d0 / (1 - d1 * area)
    fields: dict[str, tuple[Any, ...]] = {
        "area_rate": (r"\Lambda", area),
        "memory": ("M^{*}", interval * area),
        "interval": (r"\Delta T^{*}", interval),
        "throughput": ("R^{*}", sum(rate * o for rate, _, o in columns)),
        "load": (r"\rho", area * (d1 + d0 / memory)),
    }
    for klass, (rate, _, _) in zip(classes, columns, strict=True):
        fields[f"count_{klass}"] = ("n^{*}", rate * interval)
    return family(
        "wait",
        fields,
        kind=Kind.EXACT,
        assumptions=("fluid equations of WAIT: prefill is one stage", "fixed lengths"),
        source="WAIT, 2504.11320 (theory core 1.5) [W1]",
        load=d1 * area,
    )


def nested_wait() -> Formulas:
    """Return the decay of the queue before a segment of Nested WAIT, and the memory it needs.

    Examples
    --------
    >>> nested_wait().hoeffding.exact(n1=40, n2=20, p=0.4)
    Fraction(4, 5)
    """
    import sympy

    n1, n2, p, theta = symbols("n1", "n2", "p", "theta")
    s, o, m, time, d0, delta = symbols("prompt", "reached", "segments", "horizon", "d0", "overflow")
    safety = sympy.log(m * (1 + time / d0) / delta) / theta
    equation = n1 * sympy.log(1 - p + p * sympy.exp(theta)) - n2 * theta
    return family(
        "nested_wait",
        {
            "equation": ("0", equation),
            "hoeffding": (r"\theta_{-}", 8 * (n2 - n1 * p) / n1),
            "stock": ("M_{k}", (s + o) * (n2 + safety)),
        },
        kind=Kind.INNER_BOUND,
        assumptions=("p < n2 / n1 < 1", "requests go on independently", "sufficient only"),
        source="Nested WAIT, 2504.11320 (theory core 1.5)",
    )
