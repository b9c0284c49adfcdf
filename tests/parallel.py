"""Parallel starts for every call, however small: threads then race where the plan would have spared them."""

from contextlib import contextmanager

from numbaconv import calls, plan
from numbaconv.plan import base

THRESHOLDS = ("PARALLEL_FLOPS", "PARALLEL_BYTES")


def forget_plans():
    """What was planned under other thresholds is planned again."""
    for planned in (plan.plan_forward, plan.plan_input_grad, plan.plan_weight_grad, plan.plan_bias_grad):
        planned.cache_clear()
    calls.known_calls.clear()


def always():
    """From here on, in this process."""
    for name in THRESHOLDS:
        assert hasattr(base, name), f"the plan has no {name} any more"
        setattr(base, name, 0)
    forget_plans()


@contextmanager
def everywhere():
    """Inside of the block."""
    before = {name: getattr(base, name) for name in THRESHOLDS}
    always()
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(base, name, value)
        forget_plans()
