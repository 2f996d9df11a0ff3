"""A photo made ready as the model's own preprocessing does it, to the bit, on Pillow alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a model wants its photos: the words are those of open_clip's `PreprocessCfg`."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    """"bilinear"; anything else is bicubic."""
    resize_mode: str
    """"squash": to the very size. "longest": the whole photo, padded. "shortest": the middle."""
    fill: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Pixels:
        """From a model's `preprocess_cfg`."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        return cls(
            height=int(height),
            width=int(width),
            mean=_three(config["mean"]),
            std=_three(config["std"]),
            interpolation=config.get("interpolation") or "bicubic",
            resize_mode=config.get("resize_mode") or "shortest",
            fill=int(config.get("fill_color") or 0),
        )

    @classmethod
    def read(cls, facts: dict[str, Any]) -> Pixels:
        """From what `write` gave."""
        return cls(**facts | {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])})

    def write(self) -> dict[str, Any]:
        """As an object for a JSON file."""
        return asdict(self)

    def __call__(self, photo: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) uint8 of a photo; what is that already comes back as it is."""
        import numpy as np
        from PIL import Image

        if isinstance(photo, np.ndarray):
            if photo.shape == (self.height, self.width, 3) and photo.dtype == np.uint8:
                return photo
            photo = Image.fromarray(photo)
        fitted = self._resized(photo)
        if self.resize_mode != "squash":
            fitted = self._centre(fitted, 0 if self.resize_mode == "shortest" else self.fill)
        return np.asarray(fitted if fitted.mode == "RGB" else fitted.convert("RGB"))

    def _resized(self, photo: Image.Image) -> Image.Image:
        from PIL.Image import Resampling

        bilinear = self.interpolation == "bilinear"
        how = Resampling.BILINEAR if bilinear else Resampling.BICUBIC
        wide, high = photo.size
        if self.resize_mode == "squash":
            size = (self.width, self.height)
        elif self.resize_mode == "shortest" and self.width == self.height:
            shorter = min(wide, high)  # rounded down, as torchvision's Resize does
            size = (int(self.width * wide / shorter), int(self.width * high / shorter))
        else:
            ratios = (high / self.height, wide / self.width)
            ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
            size = (max(round(wide / ratio), 1), max(round(high / ratio), 1))
            if self.resize_mode == "shortest":
                how = Resampling.BICUBIC  # open_clip's, whatever the model says
        return photo if size == photo.size else photo.resize(size, how)

    def _centre(self, photo: Image.Image, fill: int) -> Image.Image:
        from PIL import ImageOps

        more_wide, more_high = max(self.width - photo.width, 0), max(self.height - photo.height, 0)
        if more_wide or more_high:
            left, top = more_wide // 2, more_high // 2
            bands = len(photo.getbands())
            border = (left, top, more_wide - left, more_high - top)
            photo = ImageOps.expand(photo, border, fill if bands == 1 else (fill,) * bands)
        left = round((photo.width - self.width) / 2)
        top = round((photo.height - self.height) / 2)
        if (left, top) == (0, 0) and photo.size == (self.width, self.height):
            return photo
        return photo.crop((left, top, left + self.width, top + self.height))


def _three(value: float | list[float] | tuple[float, ...]) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))
