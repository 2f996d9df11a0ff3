"""Query banks: typical queries of a model, to tell the hubs among its vectors and calibrate scores.

The built-in model ships with one. For another model the texts are `typical_texts()`, encoded when
first needed, and the pictures are a sample of the index's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from mmsearch.encoders.mini import FOLDER
from mmsearch.errors import ModelDamaged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Modality, Vectors

    Pairs = Mapping[tuple[Modality, Modality], NDArray[np.float32]]
    """By the modality of the query and the one that is searched."""

VERSION = "sentences-1"
"""Of `typical_texts`: stored banks of another version are made anew. Raise it with any change."""

MOST_PICTURES = 2_000
"""Pictures of an index that are sampled for its bank."""
FEWEST_PICTURES = 200
"""An index of fewer has no bank of pictures: too few to tell a hub by."""

SHIPPED: Mapping[str, Path] = {"mini": FOLDER / "bank.npz"}
"""The banks that come with encoders, by their names."""

MODALITIES: tuple[Modality, ...] = ("text", "image", "audio")


@dataclass(frozen=True)
class QueryBank:
    """Typical queries in an encoder's space, which are typical items as well."""

    rows: Mapping[Modality, Vectors]
    """(m, dim) unit rows."""
    hubs: Pairs = field(default_factory=dict)
    """(m,) how much of a hub each row of the searched modality is (mmsearch.vectors.hubness)."""
    references: Pairs = field(default_factory=dict)
    """(3,) level, growth and spread of a `Reference` (mmsearch.spaces.calibration)."""


@cache
def shipped_bank(name: str, fingerprint: str) -> QueryBank | None:
    """The bank that came with an encoder; None if none did, or other weights made it.

    Raises:
        ModelDamaged: the file is there, and cannot be read.
    """
    path = SHIPPED.get(name)
    return load_bank(path, fingerprint) if path is not None and path.exists() else None


def load_bank(path: Path, fingerprint: str) -> QueryBank | None:
    """A bank from a file that holds what `pack_bank` made; None if other weights made it.

    Raises:
        ModelDamaged: it cannot be read.
    """
    try:
        return unpack_bank(path.read_bytes(), fingerprint)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelDamaged(
            f"the bank of typical queries is damaged: {path} cannot be read. "
            "Reinstall it: pip install --force-reinstall --no-deps mmsearch"
        ) from error


def pack_bank(fingerprint: str, bank: QueryBank) -> bytes:
    """A bank as an `.npz`, its rows in 8 bits: a cosine moves by about 0.001, and so do the hubs.

    Args:
        fingerprint: Of the weights that made the rows.
        bank: What to pack.
    """
    import numpy as np

    arrays: dict[str, Any] = {"fingerprint": np.array(fingerprint)}
    for modality, rows in bank.rows.items():
        largest = np.abs(rows).max(axis=1, keepdims=True)
        arrays[modality] = np.round(rows * (127 / largest)).astype(np.int8)
    for pair, hubs in bank.hubs.items():
        arrays[" ".join(("hubs", *pair))] = hubs.astype(np.float16)
    for pair, numbers in bank.references.items():
        arrays[" ".join(("reference", *pair))] = numbers.astype(np.float32)
    packed = BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def unpack_bank(packed: bytes, fingerprint: str) -> QueryBank | None:
    """What was packed, its rows of unit length again; None if other weights made it."""
    import numpy as np

    with np.load(BytesIO(packed), allow_pickle=False) as held:
        if str(held["fingerprint"]) != fingerprint:
            return None
        arrays = {key: held[key].astype(np.float32) for key in held.files if key != "fingerprint"}

    def of_pairs(what: str) -> Pairs:
        keys = {(one, other): f"{what} {one} {other}" for one in MODALITIES for other in MODALITIES}
        return {pair: arrays[key] for pair, key in keys.items() if key in arrays}

    rows = {key: arrays[key] for key in MODALITIES if key in arrays}
    units = {key: row / np.linalg.norm(row, axis=1, keepdims=True) for key, row in rows.items()}
    return QueryBank(units, of_pairs("hubs"), of_pairs("reference"))


# ---------------------------------------------------------------------- typical texts

SENTENCES = 2_000


def typical_texts() -> list[str]:
    """SENTENCES different queries, put together from word lists; the same on each machine.

    What they say matters little; that they are spread over what pictures show does. Each pattern
    comes equally often, until the short ones run out of new sentences.
    """
    found: dict[str, None] = {}
    round_number = 0
    while len(found) < SENTENCES:
        for pattern in PATTERNS:
            found.setdefault(_filled(pattern, round_number))
        round_number += 1
    return list(found)[:SENTENCES]


def _filled(pattern: str, round_number: int) -> str:
    """The pattern with words that its slots and the round choose, as if at random."""

    def word(slot: re.Match[str]) -> str:
        words = WORDS[slot[1]]
        drawn = hashlib.blake2b(f"{pattern}|{slot.start()}|{round_number}".encode(), digest_size=8)
        return words[int.from_bytes(drawn.digest(), "big") % len(words)]

    text = re.sub(r"\{(\w+)\}", word, pattern)
    return re.sub(r"\b(a) (?=[aeio])", r"\1n ", text)


WORDS: dict[str, tuple[str, ...]] = {
    key: tuple(words.split("|"))
    for key, words in {
        "person": "man|woman|boy|girl|child|baby|toddler|teenager|old man|old woman|young man|"
        "young woman|farmer|chef|nurse|doctor|teacher|student|soldier|police officer|firefighter|"
        "worker|fisherman|musician|singer|dancer|painter|photographer|tourist|cyclist|runner|"
        "swimmer|skier|climber|surfer|skateboarder|football player|basketball player|bride|groom|"
        "grandmother|father|mother|couple|waiter|mechanic|clown|monk|astronaut",
        "people": "people|children|men|women|friends|students|tourists|workers|athletes|kids|"
        "soldiers|dancers|players|fans|shoppers|musicians|families|hikers|boys|girls|neighbours",
        "count": "two|three|four|a few|several|a group of|a crowd of|many|a line of|a pair of",
        "wearing": "red shirt|blue jacket|white dress|black suit|yellow raincoat|green hat|"
        "straw hat|baseball cap|helmet|wetsuit|bikini|uniform|hooded sweater|pair of sunglasses|"
        "backpack|wool scarf|costume|mask|apron|life vest|striped sweater|leather jacket|kimono",
        "doing": "walking|running|sitting|standing|sleeping|reading a book|drinking coffee|eating|"
        "cooking|dancing|singing|laughing|crying|talking on the phone|looking at a screen|"
        "taking a picture|playing the guitar|playing the piano|playing football|playing tennis|"
        "playing chess|riding a bicycle|riding a horse|riding a motorcycle|driving a car|"
        "climbing a rock|climbing a ladder|jumping into water|swimming|surfing a wave|skiing|"
        "skateboarding|ice skating|fishing|hiking|camping|waving|kissing|hugging|shaking hands|"
        "painting a wall|sweeping the floor|washing dishes|planting flowers|carrying a box|"
        "pushing a cart|working at a desk|giving a speech|waiting in line|blowing out candles|"
        "throwing a ball|kicking a ball|flying a kite|building a sandcastle|opening a present|"
        "pointing at something|looking out of a window|feeding birds|walking a dog|doing yoga|"
        "lifting weights|brushing teeth|knitting|writing a letter|crossing the street",
        "place": "street|beach|park|forest|field|garden|kitchen|living room|bedroom|bathroom|"
        "office|classroom|library|museum|church|restaurant|cafe|bar|shop|supermarket|market|"
        "train station|airport|bus stop|parking lot|bridge|harbour|swimming pool|stadium|gym|"
        "playground|farm|barn|desert|mountain|valley|river|lake|waterfall|island|cave|city square|"
        "construction site|factory|hospital|stage|hotel lobby|staircase|balcony|rooftop|tunnel|"
        "subway|snowy slope|skate park|dirt track|vineyard|jungle|graveyard|castle|village",
        "animal": "dog|puppy|cat|kitten|horse|cow|sheep|goat|pig|donkey|chicken|duck|goose|swan|"
        "parrot|owl|eagle|seagull|pigeon|penguin|elephant|lion|tiger|bear|polar bear|wolf|fox|deer|"
        "moose|rabbit|squirrel|mouse|hedgehog|monkey|gorilla|giraffe|zebra|camel|kangaroo|koala|"
        "panda|crocodile|snake|lizard|turtle|frog|shark|whale|dolphin|seal|goldfish|octopus|crab|"
        "butterfly|bee|spider|ladybird|snail|hummingbird|peacock|bat|hippopotamus|rhinoceros",
        "moving": "running|jumping|sleeping|eating|drinking water|swimming|flying|hiding|"
        "looking at the camera|shaking itself|chasing a ball|carrying a stick|lying in the sun|"
        "standing still|climbing a tree|playing with its young|catching a frisbee|fighting|"
        "sitting on a fence|crossing a road|begging for food|rolling in the grass",
        "thing": "car|bus|truck|train|airplane|helicopter|boat|sailing boat|ship|bicycle|"
        "motorcycle|tractor|ambulance|fire engine|tram|hot air balloon|rocket|table|chair|sofa|"
        "bed|lamp|clock|mirror|television|computer|laptop|keyboard|mobile phone|camera|book|"
        "newspaper|map|letter|pen|scissors|hammer|ladder|umbrella|suitcase|handbag|shoe|hat|watch|"
        "ring|glasses|cup|plate|bottle|wine glass|knife|fork|spoon|pan|teapot|oven|refrigerator|"
        "washing machine|toilet|sink|guitar|piano|violin|drum|trumpet|microphone|ball|kite|doll|"
        "teddy bear|puzzle|chess board|candle|flag|statue|fountain|bench|street lamp|traffic light|"
        "road sign|mailbox|fence|gate|door|window|key|basket|bucket|rope|tent|canoe|surfboard|"
        "skis|helmet|trophy|balloon|gift box|christmas tree|vase|painting|mask|robot|telescope",
        "food": "pizza|hamburger|sandwich|salad|soup|sushi|pasta|noodles|rice|bread|cheese|egg|"
        "steak|fish|chicken curry|pancakes|birthday cake|chocolate|ice cream|cookies|apple|banana|"
        "orange|strawberries|grapes|lemon|watermelon|tomato|potato|carrot|mushrooms|coffee|tea|"
        "beer|wine|orange juice|breakfast|picnic",
        "plant": "flower|rose|sunflower|tulip|orchid|tree|oak|palm tree|pine tree|cactus|fern|"
        "bush|autumn leaves|cherry blossom|wheat|moss|lily|bamboo",
        "view": "sunset|sunrise|mountain range|coastline|skyline|night sky|rainbow|storm|"
        "snowy landscape|foggy morning|full moon|starry sky|volcano|glacier|canyon|sand dunes|"
        "rolling hills|rice terraces|ruins|lighthouse|windmill|skyscraper|cathedral|temple|mosque|"
        "palace|old town|highway|railway track|harbour at night|fireworks|northern lights|"
        "waves on rocks|frozen lake|field of flowers|cloudy sky|lightning|thatched cottage",
        "event": "wedding|birthday party|concert|parade|football match|basketball game|"
        "tennis match|car race|marathon|protest|graduation|funeral|festival|carnival|"
        "christmas dinner|halloween party|business meeting|conference|fashion show|school trip|"
        "rodeo|boxing match|cycling race|theatre play|barbecue|road trip|family reunion|auction",
        "paper": "invoice|receipt|business card|handwritten note|menu|calendar|bar chart|diagram|"
        "floor plan|screenshot|poster|passport|ticket|recipe|logo|comic|blackboard|presentation",
        "colour": "red|blue|green|yellow|orange|purple|pink|brown|black|white|grey|golden|silver",
        "look": "small|big|old|new|tall|tiny|broken|wooden|metal|shiny|dirty|colourful|empty|"
        "striped|furry|beautiful|strange|round|vintage|modern|wet|fluffy|spotted|rusty",
        "how": "happy|sad|tired|angry|smiling|bearded|blond|barefoot|muddy|excited|serious|"
        "surprised|elegant|sleepy|bald|shirtless",
        "when": "at night|in the morning|at sunset|in winter|in summer|in the rain|in the snow|"
        "in autumn|on a sunny day|on a foggy day|in spring|at dawn|during a storm|by candlelight",
        "where": "on a table|on the grass|on the ground|in the water|in the air|against a wall|"
        "in front of a house|behind a fence|near a river|under a tree|on a shelf|by the road|"
        "on a white background|in the snow|on the sand|next to a window|in a box|on a roof",
        "picture": "a photo of|a picture of|a close-up of|a black and white photo of|a drawing of|"
        "a painting of|an aerial view of|a blurry photo of|a portrait of|a cartoon of|"
        "a sculpture of|a low resolution photo of|clip art of|a selfie with|an illustration of",
    }.items()
}

PATTERNS = (
    "a {person} {doing}",
    "a {person} {doing} in a {place}",
    "a {how} {person} {doing}",
    "a {person} in a {wearing} is {doing}",
    "a {person} wearing a {wearing} in a {place}",
    "{count} {people} {doing} in a {place}",
    "{count} {people} {doing} {when}",
    "{people} at a {event}",
    "a {person} and a {animal} {where}",
    "a {person} with a {colour} {thing}",
    "a {person} holding a {thing}",
    "a {animal} {moving}",
    "a {colour} {animal} {moving} {where}",
    "a {look} {animal} in a {place}",
    "two {animal}s {moving}",
    "{animal} and {animal}",
    "a {look} {thing} {where}",
    "a {colour} {thing} in a {place}",
    "{look} {colour} {thing}",
    "a {thing} and a {thing} {where}",
    "{picture} a {thing}",
    "{picture} a {animal}",
    "{picture} a {person}",
    "{picture} a {view}",
    "{food} {where}",
    "a plate of {food}",
    "{food} and {food}",
    "a {colour} {plant} {where}",
    "{view}",
    "{view} {when}",
    "an empty {place} {when}",
    "a {place} with {count} {people}",
    "{event}",
    "{event} in a {place}",
    "{paper}",
    "{paper} with {colour} letters",
    "{thing}",
    "{animal}",
    "{person}",
    "{place} {when}",
)
"""A slot in braces is replaced by one of its WORDS."""
