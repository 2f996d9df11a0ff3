"""The hyperparameters and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LanguageRound:
    """A round of training the tower for other languages, with its own optimiser.

    The learning rate rises and falls once; a round starts from the weights of the one before.
    """

    epochs: int
    rate: float
    rising: float
    """The share of steps during which the rate rises."""
    average: float
    """Decay of the moving average of the weights."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """The probability that a text is in an epoch, by its kind, else by its language, else 1."""
    words_masked: float = 0.0
    """The share of tokens that are replaced by the unknown token."""
    photo_weight: float = 0.5
    """Of the loss against photos."""
    all_photos: bool = False
    """Whether its negatives are all photos, rather than those of the batch."""
    trained_share: float = 1.0
    """Of the trained weights in their mean with the initial ones (Wortsman et al., CVPR 2022)."""
    alignment: float = 0.0
    """A caption's target is the mean of the English captions of its photo, weighted by a softmax of
    their cosines to the caption at this temperature; 0: the plain mean."""


@dataclass(frozen=True)
class TowerRound:
    """A round of fine-tuning both towers: runs from the same weights, each with its own seed."""

    epochs: tuple[int, ...]
    """Of each run, in which the learning rates rise and fall once."""
    factor: float = 1.0
    """On the learning rates."""
    trained_share: float = 1.0
    """Of the mean of the runs' weights, in their mean with the initial ones."""


@dataclass(frozen=True)
class Recipe:
    """How `mini` is trained; the model card lists what else was tried."""

    seed: int = 0
    licensed_only: bool = False
    """Whether the towers learn only from sets with an open licence (NOTICE)."""
    views: int = 6
    """Of each photo: as it is, mirrored, and random crops."""

    image_dropout: float = 0.4
    text_dropout: float = 0.2
    photo_noise: float = 0.1
    """Deviation of the Gaussian noise on standardised photo features, drawn at each step."""
    class_noise: float = 0.3
    """The same, on the classifier's rows."""
    class_weight: float = 0.75
    """Of the InfoNCE between the classifier's rows and the class names."""
    label_weight: float = 0.5
    """Of the InfoNCE between photos and their labels."""
    paraphrase_weight: float = 0.2
    """Of the InfoNCE between two captions of a photo, without it."""
    distil_weight: float = 2.0
    """Of the distillation of the classifier's probabilities for the training photos."""
    weight_decay: float = 0.05

    warm_epochs: int = 32
    warm_batch: int = 1500
    warm_labelled_batch: int = 300
    """Labelled photos in a step."""
    warm_rate: float = 1e-3
    warm_temperature: float = 0.07
    """At the start; it is learnt."""

    rounds: tuple[TowerRound, ...] = (
        TowerRound((12, 9)),
        TowerRound((8,), 2 / 3, 0.5),
        TowerRound((8,), 2 / 3, 0.5),
        TowerRound((8,), 2 / 3, 1 / 3),
    )
    """Of fine-tuning; each starts from the weights of the one before."""
    batch: int = 500
    """Captioned photos in a step."""
    labelled_batch: int = 96
    """Labelled photos in a step."""
    paraphrase_batch: int = 64
    """Pairs of paraphrases in a step."""
    classes: int = 192
    """Class names encoded per step of fine-tuning; the others keep their last vectors."""
    head_rate: float = 6e-4
    image_rate: float = 6e-4
    text_rate: float = 2e-4
    anchor_weight: float = 0.3
    """Of the distance of tuned features to the published ones, which the classifier's rows fit."""
    temperature: float = 0.045
    """At the start of fine-tuning."""
    average: float = 0.95
    """Decay of the moving average of the weights, which the model is made of."""

    sound_views: int = 12
    """Random changes of each sound."""
    audio_ridge: float = 0.3
    """λ; the mean of the squares of each feature is 1."""

    rerank_rounds: tuple[tuple[int, float], ...] = ((9, 1.0), (7, 2 / 3), (6, 2 / 3))
    """Epochs of each round, in which the rates rise and fall once, and the factor on its rates."""
    rerank_warm: int = 1
    """Epochs of the first round in which only new layers learn: their first gradients would
    disturb the published ones."""
    rerank_cut: int = 18
    """Image blocks shared with the tower; region embeddings use copies of those above."""
    rerank_batch: int = 250
    rerank_views: int = 4
    """Of each photo."""
    rerank_rate: float = 1e-3
    """Of new layers; published ones learn at `image_rate` and `text_rate`."""
    region_dropout: float = 0.3
    word_dropout: float = 0.1
    """Also of whole words."""
    rerank_temperature: float = 0.05
    """At the start; it is learnt, of the pooled and of the token term separately."""
    rerank_layers: int = 2
    """Text layers above the frozen ones, of which word embeddings use copies."""
    token_weight: float = 1.0
    """Of the term that compares words with regions, next to the pooled term."""
    words_share: tuple[float, float] = (0.65, 0.25)
    """Of the words' sum against the regions' sum, when the query is a text and when it is a photo.
    Chosen on dev, as are `hub_weight` and `match_weight`."""
    hub_weight: tuple[float, float] = (0.5, 0.25)
    """Of the hubness of a photo, and of a text, as a candidate."""
    hub_bank: int = 500
    """Texts and photos of the training split on which hubness is measured."""
    match_weight: float = 0.5
    """Of a match, in cosines, next to the first stage's score."""

    vocabulary: int = 16_000
    """The size of the vocabulary of the tower for other languages."""
    language_width: int = 256
    language_inner: int = 512
    language_layers: int = 2
    language_dropout: float = 0.1
    language_rounds: tuple[LanguageRound, ...] = (
        LanguageRound(
            epochs=4,
            rate=1.5e-3,
            rising=0.15,
            average=0.998,
            shares={"en": 0.5, "names": 1.0, "names of other languages": 0.25},
        ),
        LanguageRound(
            epochs=3,
            rate=6e-4,
            rising=0.1,
            average=0.995,
            trained_share=0.7,
            shares={
                "fr": 0.5,
                "cs": 0.5,
                "de": 0.25,
                "en": 0.05,
                "captions alone": 0.05,
                "names": 0.1,
                "names of other languages": 0.1,
            },
            words_masked=0.1,
            photo_weight=1.0,
            all_photos=True,
            alignment=0.1,
        ),
    )
    language_batch: int = 512
    language_temperature: float = 0.05
    distance_weight: float = 2.0
    """Of the distance to the target."""
    accents_dropped: float = 0.12
    """The share of texts that are read without accents."""
    typical_repeats: int = 6
    """How often each typical English query is repeated in the training of the language detector."""
    everyday_repeats: int = 30
    """The same for each everyday English word."""
    names_repeats: int = 3
    """The same for each class name in another language."""
