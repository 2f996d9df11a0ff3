"""The languages with a stemmer and stop words, and detection of the language of a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

_stemming = Lock()
"""A stemmer must not be used by two threads at once."""


@dataclass(frozen=True, eq=False)
class Language:
    """A language of texts and queries.

    Attributes:
        algorithm: The name of its Snowball stemmer.
        prefix: What its tokens begin with, so that "die" in an English text and "die" in a German
            one are different tokens. A query cannot contain it: case folding makes it a letter.
        stop_words: Words that are ignored in queries, without accents.
        distinctive: The stop words that are not common words of another language.
        letters: Letters that English does not use.
        uses_accents: Whether the stemmer depends on accents.
        plural: An ending that the stemmer does not remove from some words: "vélos".
    """

    algorithm: str
    prefix: str
    stop_words: frozenset[str]
    distinctive: frozenset[str]
    letters: frozenset[str] = frozenset()
    uses_accents: bool = False
    plural: str = ""

    def stem(self, word: str) -> str:
        """The stem of a word; words with the same stem are the same to a search.

        Args:
            word: In lower case; a word of fewer than three letters is its own stem.
        """
        if len(word) < 3:
            return word
        word = word.removesuffix(self.plural)
        with _stemming:
            stemmer = _stemmer(self.algorithm)
            stem: str = stemmer.stemWord(word)
            # again: "petite" becomes "petit", and that "pet"; not in English, as indexes hold stems
            while self.prefix and len(again := stemmer.stemWord(stem)) < len(stem):
                stem = again
        return stem


@cache
def _stemmer(algorithm: str) -> Any:
    import Stemmer

    return Stemmer.Stemmer(algorithm, 0)  # no cache: tokens have one


_ENGLISH = (
    "a about after again all also am an and any are as at be because been before being both but "
    "by could d did do does doing don during each either etc few for from further had has "
    "have having he her here hers him his how i if in is it its just ll m many me more most much "
    "my no nor not of on once only or other our ours own re s same she should so some such t than "
    "that the their theirs them then there these they this those to too until upon us ve very was "
    "we were what when where which while who whom whose why will with within without would you "
    "your yours"
)
_GERMAN = (
    "aber alle allem allen aller alles als also am an ander andere anderem anderen anderer anderes "
    "auch auf aus bei beim bin bis da dabei damit dann das dass dein deine dem den denn der des "
    "dich die dies diese diesem diesen dieser dieses dir doch dort du durch ein eine einem einen "
    "einer eines er es etwas euch euer fur gegen hab habe haben hat hatte hatten hier ich ihm ihn "
    "ihnen ihr ihre ihrem ihren ihrer ihres im in ins ist ja jede jedem jeden jeder jedes kann "
    "kein keine keinem keinen keiner man mein meine mich mir mit nach nicht nichts noch nun nur ob "
    "oder ohne sehr sein seine seinem seinen seiner seines sich sie sind so uber um und uns unser "
    "unsere vom von vor wahrend war waren was weil wenn wer werden wie wieder wir wird wo wurde "
    "wurden zu zum zur zwischen"
)
_FRENCH = (
    "a ai ainsi alors apres au aussi autre autres aux avant avec c ce cela celle celui ces cet "
    "cette ceux chez ci comme d dans de depuis des donc dont du elle elles en entre est et etaient "
    "etait etant ete etre eu eux il ils j je l la le les leur leurs lors lui m ma mais me meme "
    "memes mes moi mon n ne ni nos notre nous on ont ou par parmi pas pendant peu plus pour qu "
    "quand que quel quelle quelles quels qui quoi s sa sans se ses si son sont sous sur t ta te "
    "tes toi ton tous tout toute toutes tres tu un une vers vos votre vous y"
)
_CZECH = (
    "a aby ale ani asi az bez bude budou by byl byla byli bylo byly byt co coz do ho i ja jak jako "
    "je jeho jej jeji jejich jen jenz jeste ji jim jimi jiz jsem jsme jsou jste k kam kde kdo kdy "
    "kdyz ke ktera ktere kterem kteri kterou ktery kterych ku ma maji mate me mezi mi mit mne moje "
    "muj my na nad nam nas nasi ne nebo neco nej nejsou neni nez ni nic nich nim nimi o od on ona "
    "oni ono pak po pod podle pokud pouze pred pres pri pro proti proto protoze s se si sve svem "
    "sveho svou svuj svych svym svymi ta tak take tam tato te tedy ten tento teto ti tim to toho "
    "tohoto tom tomto tomu tu tuto ty u uz v vam vas vase ve vedle vsak vsech vsechny vy z za ze"
)
_ENGLISH_TOO = (
    "a ale am an as by can car c co d den des die do dies far fur hat her hier him ho i in is j m "
    "man me mi mine mon more my n no o on or ours par pod pour pro plus s sans so son t tam ten to "
    "ton tom u us ve war was y"
)
"""Stop words of other languages that occur in English texts too, if only in contractions."""

_SHARED = "am an do had her in me most no ours so was"
"""English stop words that are also words of other languages."""


def _language(algorithm: str, prefix: str, words: str, letters: str, **more: Any) -> Language:
    own = frozenset(words.split())
    distinctive = own.difference(_ENGLISH.split(), _ENGLISH_TOO.split())
    return Language(algorithm, prefix, own, distinctive, frozenset(letters), **more)


GERMAN = _language("german", "ᵈ", _GERMAN, "äöüß")
FRENCH = _language("french", "ᶠ", _FRENCH, "àâæçèéêëîïôœùû", uses_accents=True, plural="s")
CZECH = _language("czech", "ᶜ", _CZECH, "áčďéěíňóřšťúůýž", uses_accents=True)

OTHERS = (GERMAN, FRENCH, CZECH)
"""All languages other than English."""

PREFIXES = frozenset(language.prefix for language in OTHERS)

_OTHER_WORDS = frozenset[str]().union(*(language.distinctive for language in OTHERS))

ENGLISH = Language(
    "porter",  # rather than "english": existing indexes hold its stems
    "",
    frozenset(_ENGLISH.split()),
    frozenset(_ENGLISH.split()).difference(_SHARED.split()),
)
"""The language of a text unless more of it is typical of another."""


def language_of(words: Sequence[str], text: str) -> Language:
    """The language of which a text has the most distinctive words and letters, each counted once.

    Args:
        words: The words of the text, in lower case, without accents.
        text: The original text.
    """
    is_ascii = text.isascii()
    if is_ascii and _OTHER_WORDS.isdisjoint(words):
        return ENGLISH
    distinct = set(words)
    letters = set("" if is_ascii else unicodedata.normalize("NFC", text).lower())
    found, most = ENGLISH, len(distinct & ENGLISH.distinctive)
    for language in OTHERS:
        number = len(distinct & language.distinctive) + len(letters & language.letters)
        if number > most:
            found, most = language, number
    return found
