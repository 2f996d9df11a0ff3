"""Which runtimes may run a model, in order: what was asked for, and what this machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.encoders.clip_torch import best_device, check_installed, has_device
from mmsearch.errors import InvalidOption

if TYPE_CHECKING:
    from mmsearch.encoders import Runtime


@dataclass(frozen=True, slots=True)
class Plan:
    """Graphs are tried first, then torch."""

    graphs: tuple[str, ...] = ()
    """Precisions to run on ONNX Runtime, the best first."""
    insists: bool = False
    """The last graph is used even if it differs from torch: the user has asked for it."""
    device: str | None = None
    """Where torch may run; None if it may not."""
    precision: str = "fp32"
    """Of torch."""


ON_CPU: dict[tuple[str, str], Plan] = {
    ("auto", "auto"): Plan(("int8", "fp32"), device="cpu"),
    ("auto", "fp32"): Plan(("fp32",), device="cpu"),
    ("auto", "bf16"): Plan(device="cpu", precision="bf16"),
    ("auto", "int8"): Plan(("int8",), insists=True),
    ("onnx", "auto"): Plan(("int8", "fp32"), insists=True),
    ("onnx", "fp32"): Plan(("fp32",), insists=True),
    ("onnx", "int8"): Plan(("int8",), insists=True),
    ("torch", "auto"): Plan(device="cpu"),
    ("torch", "fp32"): Plan(device="cpu"),
    ("torch", "bf16"): Plan(device="cpu", precision="bf16"),
}
"""By runtime and precision."""


def plan_for(how: Runtime, name: str) -> Plan:
    """What may run a model.

    Args:
        how: What was asked for.
        name: The model's, for messages.

    Raises:
        InvalidOption: that cannot be had together, or not on this machine.
        MissingExtra: it needs torch, which is not installed.
    """
    device: str = how.device
    if device == "auto":
        graphs_only = how.runtime == "onnx" or how.precision == "int8"
        device = "cpu" if graphs_only else best_device()
    plan = _on_gpu(device, how) if device != "cpu" else _on_cpu(how)
    if not plan.graphs:
        check_installed(name)
    if plan.device is not None and plan.device != "cpu" and not has_device(plan.device):
        raise InvalidOption(f"torch finds no {plan.device} on this machine; leave --device out")
    return plan


def _on_cpu(how: Runtime) -> Plan:
    plan = ON_CPU.get((how.runtime, how.precision))
    if plan is None:
        there = sorted(other for runtime, other in ON_CPU if runtime == how.runtime)
        raise InvalidOption(
            f"--precision {how.precision} cannot run with --runtime {how.runtime} on a CPU; "
            f"that has {', '.join(there)}"
        )
    return plan


def _on_gpu(device: str, how: Runtime) -> Plan:
    if how.runtime == "onnx" or how.precision == "int8":
        asked = "--runtime onnx" if how.runtime == "onnx" else "--precision int8"
        raise InvalidOption(f"{asked} runs on the CPU, not on {device}; leave one of them out")
    return Plan(device=device, precision="fp32" if how.precision == "fp32" else "bf16")
