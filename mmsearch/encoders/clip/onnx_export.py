"""The towers of a `clip:` model as ONNX graphs that are fast and can be quantised."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mmsearch.encoders.clip.torch_model import normalised, trims
from mmsearch.encoders.onnx import write_optimised

if TYPE_CHECKING:
    from mmsearch.encoders.clip.torch_model import TorchModel
    from mmsearch.types import Modality

OPSET = 18
"""Has all operators needed; ONNX Runtime reads it since 1.14."""
WEIGHTS = "weights.bin"


def export(model: TorchModel, modality: Modality, file: Path) -> None:
    """Write a tower as a graph from pixels or token ids to unit vectors, for any batch size.

    Raises:
        Exception: of any kind, if the exporter fails.
    """
    with _class_token_last(model.model.visual):
        write_graph(model, modality, _tower(model, modality), file, {"vectors": {0: "n"}})


def write_graph(
    model: TorchModel,
    modality: Modality,
    module: Any,
    file: Path,
    output: dict[str, dict[int, str]],
) -> None:
    """Write a module that takes a model's pixels or token ids as a graph.

    Args:
        model: The model whose parts it is made of.
        modality: "image" if it takes pixels, "text" if token ids.
        module: A torch module of one argument.
        file: The ONNX file to write.
        output: The name of its output, with the names of that one's dynamic axes.

    Raises:
        Exception: of any kind, if the exporter fails.
    """
    import torch

    free = {0: "n", 1: "tokens"} if modality == "text" and trims(model.model) else {0: "n"}
    name = "ids" if modality == "text" else "pixels"
    with _plain_attention(), _rewritten(model.model), torch.no_grad():
        example = {name: _example(model, modality)}
        trace(module, example, list(output), {name: free, **output}, str(file))


def trace(
    module: Any,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    file: str | BinaryIO,
) -> None:
    """Write what a torch module computes of example inputs as a graph.

    Args:
        module: Its arguments are `inputs`, in their order.
        inputs: An example of each, by its name.
        outputs: Their names.
        axes: By the name of an input or output, the names of the axes of variable length.
        file: The ONNX file to write.
    """
    import torch

    with _quiet_exporter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter makes slower graphs of these models
        )


def simplified(graph: Path, out: Path, level: str, weights: str = WEIGHTS) -> None:
    """Write a graph as `write_optimised` does, with its weights in a file beside it."""
    prefix = "session.optimized_model_external_initializers"
    entries = {
        f"{prefix}_file_name": weights,
        f"{prefix}_min_size_in_bytes": "1024",
        "session.disable_prepacking": "1",
    }
    write_optimised(graph, out, level, entries)


# ---------------------------------------------------------------------- towers


def _example(model: TorchModel, modality: Modality) -> Any:
    import torch

    if modality == "text":
        return torch.from_numpy(model.tokens(["a dog", "two cats on a sofa"]))
    shape = (2, model.pixels.height, model.pixels.width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _tower(model: TorchModel, modality: Modality) -> Any:
    import torch
    from torch.nn.functional import normalize

    whole = model.model

    class ImageTower(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
        def __init__(self) -> None:
            super().__init__()
            self.visual = whole.visual

        def forward(self, pixels: Any) -> Any:
            photos = normalised(pixels, model.pixels)
            return normalize(whole.encode_image(photos, normalize=True), dim=-1)

    class TextTower(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
        def __init__(self) -> None:
            super().__init__()
            self.text = getattr(whole, "text", whole)

        def forward(self, ids: Any) -> Any:
            if trims(whole):
                return normalize(_short_text(self.text, ids), dim=-1)
            return normalize(whole.encode_text(ids, normalize=True), dim=-1)

    return ImageTower() if modality == "image" else TextTower()


def _short_text(text: Any, ids: Any) -> Any:
    """What open_clip's `encode_text` computes, of ids without padding at their end."""
    import torch

    states = short_states(text, ids)
    found = states[torch.arange(states.shape[0]), ids.argmax(dim=-1)]
    if text.text_projection is None:
        return found
    if isinstance(text.text_projection, torch.nn.Linear):
        return text.text_projection(found)
    return found @ text.text_projection


def short_states(text: Any, ids: Any) -> Any:
    """The states (n, tokens, width) after the last layer, of ids of fewer tokens than usual."""
    tokens = ids.shape[1]
    found = text.token_embedding(ids) + text.positional_embedding[:tokens]
    found = text.transformer(found, attn_mask=text.attn_mask[:tokens, :tokens])
    return text.ln_final(found)


# ---------------------------------------------------------------------- rewriting


@contextmanager
def _rewritten(model: Any) -> Iterator[None]:
    """Replace modules that the exporter writes badly by equivalent ones.

    torch's attention becomes one product for queries, keys and values together, and the first
    convolution of a ViT, which cuts a photo into patches, a product that can be quantised.
    """
    import torch
    from open_clip.transformer import ResidualAttentionBlock

    replaced: list[tuple[Any, str, Any]] = []

    def replace(parent: Any, name: str, make: Callable[[Any], Any]) -> None:
        old = getattr(parent, name)
        setattr(parent, name, make(old))
        replaced.append((parent, name, old))

    for parent in list(model.modules()):
        attends = isinstance(parent, ResidualAttentionBlock) and not hasattr(parent, "ln_1_kv")
        if attends and isinstance(parent.attn, torch.nn.MultiheadAttention):
            replace(parent, "attn", _attention)
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Conv2d) and _cuts_patches(child):
                replace(parent, name, _patches)
    try:
        yield
    finally:
        for parent, name, old in reversed(replaced):
            setattr(parent, name, old)


@contextmanager
def _class_token_last(visual: Any) -> Iterator[None]:
    """Let the last block of a ViT compute only the class token, if its vector needs no other.

    This saves 7 % of the work in a model of 12 blocks.
    """
    import torch
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    needs_one = (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
    )
    blocks = visual.transformer.resblocks if needs_one else []
    if not blocks or type(blocks[-1]) is not ResidualAttentionBlock:
        yield
        return

    class ClassTokenBlock(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block

        def forward(self, tokens: Any, **_no_mask: Any) -> Any:
            block, one = self.block, tokens[:, :1]
            keys = block.ln_1(tokens)
            one = one + block.ls_1(block.attn(block.ln_1(one), keys, keys)[0])
            return one + block.ls_2(block.mlp(block.ln_2(one)))

    last = blocks[-1]
    blocks[-1] = ClassTokenBlock(last)
    try:
        yield
    finally:
        blocks[-1] = last


def _cuts_patches(conv: Any) -> bool:
    tiles = conv.kernel_size == conv.stride and conv.dilation == (1, 1) and conv.groups == 1
    return bool(conv.in_channels == 3 and tiles and conv.padding in {(0, 0), "valid", 0})


def _patches(conv: Any) -> Any:
    import torch

    high, wide = conv.kernel_size

    class Patches(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
        def __init__(self) -> None:
            super().__init__()
            self.cut = torch.nn.Linear(3 * high * wide, conv.out_channels, conv.bias is not None)
            self.cut.weight.data = conv.weight.detach().permute(0, 2, 3, 1).flatten(1)
            if conv.bias is not None:
                self.cut.bias.data = conv.bias.detach()

        def forward(self, photos: Any) -> Any:
            rows, columns = photos.shape[2] // high, photos.shape[3] // wide
            parts = photos[:, :, : rows * high, : columns * wide]
            parts = parts.reshape(-1, 3, rows, high, columns, wide).permute(0, 2, 4, 3, 5, 1)
            found = self.cut(parts.reshape(-1, rows * columns, 3 * high * wide))
            return found.permute(0, 2, 1).reshape(-1, conv.out_channels, rows, columns)

    return Patches()


def _attention(old: Any) -> Any:
    import torch

    heads, size, width = old.num_heads, old.head_dim, old.embed_dim

    class SelfAttention(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
        def __init__(self) -> None:
            super().__init__()
            weight = old.in_proj_weight.detach().clone()
            bias = None if old.in_proj_bias is None else old.in_proj_bias.detach().clone()
            for part in [weight] if bias is None else [weight, bias]:
                part[:width] /= math.sqrt(size)
            self.all_three = torch.nn.Linear(width, 3 * width, bias is not None)
            self.all_three.weight.data = weight
            if bias is not None:
                self.all_three.bias.data = bias
            self.out = old.out_proj

        def projected(self, tokens: Any, start: int, stop: int) -> Any:
            """The queries (0), keys (1) and values (2) of tokens: those from `start` to `stop`."""
            rows, bias = slice(start * width, stop * width), self.all_three.bias
            weights = self.all_three.weight[rows], None if bias is None else bias[rows]
            return torch.nn.functional.linear(tokens, *weights)

        def forward(
            self, query: Any, key: Any, *_same: Any, attn_mask: Any = None, **_options: Any
        ) -> Any:
            count = query.shape[0]
            if query is key:
                three = self.all_three(query).reshape(count, -1, 3, heads, size)
                queries, keys, values = three.permute(2, 0, 3, 1, 4)
            else:
                queries = self.projected(query, 0, 1).reshape(count, -1, heads, size)
                queries = queries.permute(0, 2, 1, 3)
                both = self.projected(key, 1, 3).reshape(count, -1, 2, heads, size)
                keys, values = both.permute(2, 0, 3, 1, 4)
            scores = queries @ keys.transpose(-1, -2)
            if attn_mask is not None:
                if attn_mask.dim() == 3:
                    attn_mask = attn_mask.reshape(count, heads, *attn_mask.shape[1:])
                scores = scores + attn_mask
            attended = (scores.softmax(-1) @ values).permute(0, 2, 1, 3)
            return (self.out(attended.reshape(count, -1, width)),)

    return SelfAttention()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch the fused attention kernel off: it has no ONNX counterpart."""
    import torch

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence torch's exporter, which prints a network that it cannot export on stdout."""
    from torch import _C as C_API

    logger, name = logging.getLogger("torch.onnx"), "_jit_onnx_log"
    level, print_graph = logger.level, getattr(C_API, name, None)
    logger.setLevel(logging.CRITICAL)
    setattr(C_API, name, lambda *_graph: None)
    try:
        yield
    finally:
        setattr(C_API, name, print_graph)
        logger.setLevel(level)
