"""What runs each tower of a model: ONNX Runtime or torch, on which device, in which precision."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.clip.make_towers import (
    COUNT,
    LEAST_COSINE,
    LEAST_NEIGHBOURS,
    SENTENCES,
    make_facts,
    make_tower,
    makers,
)
from mmsearch.encoders.clip.preprocessing import TokenRecipe, Tokens, write_pieces
from mmsearch.encoders.clip.torch_model import (
    BATCH_SIZE,
    Device,
    TorchModel,
    best_device,
    check_installed,
    has_device,
)
from mmsearch.encoders.clip.towers import Tower, TowerCache
from mmsearch.encoders.onnx import import_onnxruntime, in_thread
from mmsearch.errors import InvalidOption, MissingExtra, ModelUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from mmsearch.encoders import Runtime
    from mmsearch.encoders.clip.names import Source
    from mmsearch.types import Modality, Vectors

log = logging.getLogger(__name__)
progress = logging.getLogger("mmsearch.progress")
"""Its messages about long work are shown by the commands."""

Run = Callable[[Sequence[Any]], "Vectors"]
"""Pixels (height, width, 3) each, or strings → vectors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What may run a tower: the graphs in order, then torch."""

    graphs: tuple[str, ...] = ()
    """Precisions on ONNX Runtime, the best first."""
    forces_last: bool = False
    """Whether the last graph is used even if it fails its check, because the user named it."""
    device: str | None = None
    """Of torch; None if torch may not run."""
    precision: str = "fp32"
    """Of torch."""


ON_CPU: dict[tuple[str, str], Plan] = {
    ("auto", "auto"): Plan(("int8", "fp32"), device="cpu"),
    ("auto", "fp32"): Plan(("fp32",), device="cpu"),
    ("auto", "bf16"): Plan(device="cpu", precision="bf16"),
    ("auto", "int8"): Plan(("int8",), forces_last=True),
    ("onnx", "auto"): Plan(("int8", "fp32"), forces_last=True),
    ("onnx", "fp32"): Plan(("fp32",), forces_last=True),
    ("onnx", "int8"): Plan(("int8",), forces_last=True),
    ("torch", "auto"): Plan(device="cpu"),
    ("torch", "fp32"): Plan(device="cpu"),
    ("torch", "bf16"): Plan(device="cpu", precision="bf16"),
}
"""By runtime and precision."""


def plan_for(how: Runtime, name: str) -> Plan:
    """What may run the towers of a model.

    Args:
        how: What the user wants.
        name: The model's, for messages.

    Raises:
        InvalidOption: the wishes exclude each other, or this machine lacks the device.
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
        possible = sorted(other for runtime, other in ON_CPU if runtime == how.runtime)
        raise InvalidOption(
            f"--precision {how.precision} cannot run with --runtime {how.runtime} on a CPU; "
            f"that has {', '.join(possible)}"
        )
    return plan


def _on_gpu(device: str, how: Runtime) -> Plan:
    if how.runtime == "onnx" or how.precision == "int8":
        option = "--runtime onnx" if how.runtime == "onnx" else "--precision int8"
        raise InvalidOption(f"{option} runs on the CPU, not on {device}; leave one of them out")
    return Plan(device=device, precision="fp32" if how.precision == "fp32" else "bf16")


# ---------------------------------------------------------------------- running


class Runners:
    """Runs a model's towers, each by the first of its plan that works; safe to use from threads.

    Graphs that do not exist yet are made at the first batch, and checked on it.

    Args:
        source: The model.
        towers: What was made of it.
        plan: What may run its towers.
        once: Whether one batch is all; see `Runtime`.
    """

    def __init__(
        self, source: Source, towers: TowerCache, plan: Plan, *, once: bool = False
    ) -> None:
        self.notes: list[str] = []
        """Why something runs otherwise than planned, a line each."""
        self._source = source
        self._towers = towers
        self._plan = plan
        self._once = once
        self._choosing = threading.RLock()
        self._chosen: dict[Modality, Run] = {}
        self._loaded: TorchModel | None = None
        self.facts = towers.facts() or make_facts(self._model(), towers)
        self._note(*self.facts["notes"])

    def run(self, modality: Modality, things: Sequence[Any]) -> Vectors:
        """Vectors (n, dim) of at least one thing: pixels (height, width, 3), or strings."""
        with self._choosing:
            if modality not in self._chosen:
                self._chosen[modality] = self._choose(modality, things)
        return self._chosen[modality](things)

    # ------------------------------------------------------------------ choosing

    def _choose(self, modality: Modality, things: Sequence[Any]) -> Run:
        found = self._graph(modality, things) if self._plan.graphs else None
        if found is None:
            return self._torch(modality, self._plan.device or "cpu")
        self._loaded = None  # frees the weights, which the graphs hold as well
        return found

    def _graph(self, modality: Modality, things: Sequence[Any]) -> Run | None:
        """The first of the plan's graphs that passes its check; made now if need be."""
        if modality == "text" and self.facts["tokens"] is None:
            why = f"its tokens cannot be had without torch ({self.facts['why_no_tokens']})"
            if self._plan.device is None:
                raise InvalidOption(f"{self._source.name} cannot run on ONNX Runtime: {why}")
            self._note_faults([why], "texts run on torch")
            return None
        graphs, faults = self._plan.graphs, list[str]()
        for place, precision in enumerate(graphs):
            check = self._checked(modality, things, graphs[place:])
            fault = _fault(modality, precision, check)
            if fault and fault not in faults:
                faults.append(fault)
            if self._is_usable(precision, check):
                running = self._opened(modality, precision, things)
                if running is not None:
                    self._note_faults(faults, f"it runs in {precision} on ONNX Runtime")
                    return running
                faults.append(f"its {modality} graph cannot be read")
        if self._plan.device is None:
            raise InvalidOption(
                f"{self._source.name} cannot run on ONNX Runtime: {'; '.join(faults)}. "
                "Leave --runtime and --precision out"
            )
        self._note_faults(faults, "it runs on torch")
        return None

    def _is_usable(self, precision: str, check: dict[str, Any]) -> bool:
        """Whether a graph exists and passed its check, or is used although it did not."""
        forced = self._plan.forces_last and precision == self._plan.graphs[-1]
        return bool(check.get("passed") or (forced and "error" not in check))

    def _checked(
        self, modality: Modality, things: Sequence[Any], precisions: Sequence[str]
    ) -> dict[str, Any]:
        """How the first of these graphs compares with torch, after making it if need be."""
        check = self._towers.check(modality, precisions[0])
        if check is None or self._try_again(modality, check, things):
            why_not = self._make(modality, things, precisions)
            check = self._towers.check(modality, precisions[0]) or {"error": why_not}
        return check

    def _opened(self, modality: Modality, precision: str, things: Sequence[Any]) -> Run | None:
        """A graph, ready to run; None if it cannot be read even after making it again."""
        import_onnxruntime()
        tokens: Tokens | None = None
        for attempt in range(2):
            file = self._towers.graph(modality, precision)
            check = self._towers.check(modality, precision) or {}
            packs = not self._once or precision != "fp32"  # int8 products of others differ
            tower = Tower(file, modality, int(check.get("photos_per_run", 1)), packs=packs)
            loading = in_thread(tower.load, len(things))
            if modality == "text" and tokens is None:
                pieces = self._pieces()
                tokens = self._tokens(pieces)  # takes about as long as the graph
                if pieces is not None:
                    tokens(things)  # reads those that they need
            try:
                loading.result()
            except Exception as error:  # onnxruntime has its own kinds
                log.warning("%s cannot be used: %s", file, error)
                self._towers.forget(modality, precision)
                if not attempt:
                    self._make(modality, things, [precision])
                continue
            return tower.run if tokens is None else _text_run(tokens, tower)
        return None

    def _tokens(self, pieces: Path | None = None) -> Tokens:
        return Tokens(self._towers.tokenizer, TokenRecipe.read(self.facts["tokens"]), pieces)

    def _pieces(self) -> Path | None:
        """CLIP's pieces in a file that is read in part, if one batch is all."""
        if not self._once or self.facts["tokens"]["kind"] != "clip":
            return None
        if not self._towers.pieces.exists():
            with suppress(OSError, ValueError), self._towers.making("pieces") as folder:
                write_pieces(self._towers.tokenizer, folder / self._towers.pieces.name)
        return self._towers.pieces if self._towers.pieces.exists() else None

    def _torch(self, modality: Modality, device_name: str) -> Run:
        import numpy as np

        model, device = self._model(), Device(device_name, self._plan.precision)
        model.model.to(device.name)

        def run(things: Sequence[Any]) -> Vectors:
            found = []
            for at in range(0, len(things), BATCH_SIZE):
                some = things[at : at + BATCH_SIZE]
                batch = np.stack(some) if modality == "image" else model.tokens(some)
                found.append(model.run(modality, batch, device))
            return np.concatenate(found)

        return run

    # ------------------------------------------------------------------ making

    def _make(self, modality: Modality, things: Sequence[Any], precisions: Sequence[str]) -> str:
        """Try to make graphs; with the image tower's also the text tower's, so that after one
        indexing run no query needs torch. Returns why none could be made, "" if one was.

        Raises:
            MissingExtra, ModelUnavailable: torch or the weights are missing, and no other graph can
                be used instead.
        """
        try:
            model = self._model()
        except (MissingExtra, ModelUnavailable) as error:
            checks = {one: self._towers.check(modality, one) for one in self._plan.graphs}
            if not any(check and self._is_usable(one, check) for one, check in checks.items()):
                raise
            return str(error)
        name = self._source.name
        progress.info("making the %s tower of %s ready for this machine, once …", modality, name)
        wanted = self.facts["tokens"] is not None
        text_precisions = precisions if modality == "text" else self._plan.graphs
        try:
            if modality == "image":
                make_tower(model, self._towers, "image", things, precisions)
            if wanted and (modality == "text" or not self._has_text()):
                make_tower(model, self._towers, "text", self._tokens()(SENTENCES), text_precisions)
        except OSError as error:
            return f"the cache cannot be written: {error}"
        return ""

    def _has_text(self) -> bool:
        return any(self._towers.check("text", one) is not None for one in self._plan.graphs)

    def _try_again(self, modality: Modality, check: dict[str, Any], things: Sequence[Any]) -> bool:
        """Whether to make a graph again: an older version made it, or it failed its check, which
        may pass with other packages or on more photos.
        """
        older = "error" not in check and "photos_per_run" not in check
        if modality == "image" and older:
            return True
        if check["passed"]:
            return False
        if "error" in check:
            return makers() != check.get("makers")
        if modality == "text" or check["distinct"] >= COUNT:
            return False
        distinct = min(len({thing.tobytes() for thing in things}), COUNT)
        return distinct >= 2 * int(check["distinct"])

    def _model(self) -> TorchModel:
        if self._loaded is None:
            self._loaded = TorchModel(self._source)
        return self._loaded

    # ------------------------------------------------------------------ notes

    def _note_faults(self, faults: Sequence[str], so: str) -> None:
        if faults:
            self._note(f"{self._source.name}: {'; '.join(faults)}; {so}")

    def _note(self, *lines: str) -> None:
        for line in lines:
            if line not in self.notes:
                self.notes.append(line)
                log.info("%s", line)


def _text_run(tokens: Tokens, tower: Tower) -> Run:
    return lambda texts: tower.run(tokens(texts))


def _fault(modality: Modality, precision: str, check: dict[str, Any]) -> str | None:
    """What is wrong with a graph, if anything is."""
    if "error" in check:
        return f"its {modality} tower has no ONNX graph ({check['error']})"
    if check["passed"]:
        return None
    if precision == "int8":
        return (
            f"in int8 its {modality} tower keeps {check['neighbours']:.0%} of nearest neighbours "
            f"({LEAST_NEIGHBOURS:.0%} are needed)"
        )
    return (
        f"on ONNX Runtime its {modality} tower is off by a cosine of {check['cosine']:.4f} "
        f"({LEAST_COSINE} is needed)"
    )
