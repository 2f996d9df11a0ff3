"""Every number that was chosen, and the seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How `mini` is trained; the model card says what else was tried."""

    seed: int = 0
    views: int = 6
    """Of each photo: as it is, mirrored, and random crops."""

    image_dropout: float = 0.4
    text_dropout: float = 0.2
    photo_noise: float = 0.1
    """Deviation of the Gaussian noise on standardised photo features, drawn anew at each step."""
    class_noise: float = 0.3
    """The same, on the classifier's rows."""
    class_weight: float = 0.5
    """Of the InfoNCE between the classifier's rows and class names."""
    distil_weight: float = 1.0
    """Of keeping what the classifier says of the training photos."""
    weight_decay: float = 0.05

    warm_epochs: int = 32
    warm_batch: int = 1500
    warm_rate: float = 1e-3
    warm_temperature: float = 0.07
    """At the start; it is learnt."""

    epochs: int = 10
    batch: int = 500
    classes: int = 256
    """Class names computed anew a step when the trunks are tuned; the others stay as they were."""
    head_rate: float = 6e-4
    image_rate: float = 6e-4
    text_rate: float = 2e-4
    anchor_weight: float = 0.2
    """Of keeping the tuned features near the published ones, which the class rows belong to."""
    temperature: float = 0.045
    """At the start, when the trunks are tuned."""
    average: float = 0.95
    """Decay of the moving average of the weights, which is what is kept."""

    sound_views: int = 20
    """Changed versions of each sound."""
    audio_inner: int = 128
    """Dimensions between the tower's features and the space."""
    audio_dropout: float = 0.3
    audio_noise: float = 0.1
    """Deviation of the noise on standardised features, drawn anew at each step."""
    audio_temperature: float = 0.07
    audio_smoothing: float = 0.1
    audio_steps: int = 500
    audio_batch: int = 128
    audio_rate: float = 2e-3

    row_rounds: tuple[tuple[int, float], ...] = ((9, 1.0), (7, 2 / 3), (6, 2 / 3))
    """Epochs, and what the rates are multiplied by: in each round they rise and fall."""
    row_warm: int = 1
    """Epochs of the first round in which only what is new learns: it would else pull at random."""
    row_cut: int = 18
    """Image blocks below those that regions have for themselves."""
    row_batch: int = 250
    row_views: int = 4
    """Of each photo, when what looks closer is trained."""
    row_rate: float = 1e-3
    """Of what is new; what came trained learns at `image_rate` and `text_rate`."""
    row_dropout: float = 0.3
    word_dropout: float = 0.1
    """Also of whole words."""
    row_temperature: float = 0.05
    """At the start; it is learnt, for the whole and for the parts apart."""
    row_layers: int = 2
    """Text layers above the frozen ones that words have for themselves."""
    parts_weight: float = 1.0
    """Of the term that compares words with regions, beside that of the whole."""
    words_share: tuple[float, float] = (0.65, 0.25)
    """Of what words find, beside what regions find, when asked with a text and with a photo.
    Chosen on dev, as are the next and `match_weight`."""
    hub_weight: tuple[float, float] = (0.5, 0.25)
    """What a photo, and what a text that is a hub loses."""
    hub_bank: int = 500
    """Texts and photos of the training split that tell hubs."""
    match_weight: float = 0.5
    """Of a match, in cosines, beside the first stage's score."""
