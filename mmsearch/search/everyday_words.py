"""Everyday words: labels to describe files with, and to compare other labels with."""

from __future__ import annotations

from mmsearch.types import Modality

_VISIBLE = """
person|man|woman|boy|girl|baby|toddler|child|teenager|elderly person|couple|family|group of people|
crowd|bride|face|hand|tattoo|
dog|puppy|cat|kitten|horse|cow|sheep|goat|pig|chicken|duck|goose|bird|parrot|owl|eagle|pigeon|
seagull|rabbit|squirrel|mouse|hamster|deer|fox|bear|wolf|lion|tiger|elephant|giraffe|zebra|monkey|
camel|kangaroo|snake|lizard|turtle|frog|fish|shark|dolphin|whale|jellyfish|butterfly|bee|spider|
insect|
car|taxi|bus|truck|van|tractor|motorcycle|bicycle|scooter|train|tram|airplane|helicopter|
hot air balloon|boat|sailing boat|kayak|ship|fire engine|police car|racing car|wheelchair|pram|
beach|sea|waves|lake|river|waterfall|swimming pool|fountain|mountain|hill|cliff|cave|desert|forest|
field|meadow|garden|park|island|volcano|canyon|glacier|ice|snow|rain|fog|rainbow|lightning|clouds|
blue sky|sunset|night sky|stars|moon|fire|campfire|smoke|fireworks|shadow|reflection|
tree|palm tree|flower|rose|sunflower|tulip|grass|leaves|mushroom|cactus|rocks|sand|mud|autumn|
city|skyline|street|road|motorway|bridge|tunnel|market|shop|supermarket|restaurant|café|bar|
kitchen|bedroom|bathroom|living room|office|classroom|library|museum|theatre|church|mosque|temple|
castle|tower|skyscraper|house|farm|barn|factory|building site|railway station|airport|harbour|
stadium|playground|zoo|cemetery|car park|stairs|window|door|wall|fence|statue|
graffiti|street sign|traffic light|
food|breakfast|pizza|burger|sandwich|salad|soup|pasta|sushi|bread|cake|birthday cake|cookies|
ice cream|chocolate|fruit|apple|banana|orange|strawberries|vegetables|meat|cheese|eggs|coffee|tea|
beer|wine|bottle|cup|plate|
chair|table|sofa|bed|lamp|bookshelf|book|newspaper|clock|mirror|television|computer|laptop|keyboard|
mobile phone|camera|headphones|guitar|piano|violin|drums|trumpet|microphone|toy|teddy bear|doll|
balloon|umbrella|backpack|suitcase|hat|helmet|glasses|sunglasses|shoes|dress|suit|uniform|costume|
jewellery|watch|knife|tools|money|flag|candle|Christmas tree|present|
football|American football|basketball|baseball|tennis|golf|volleyball|hockey|rugby|boxing|
martial arts|gymnastics|swimming|diving|surfing|skateboarding|skiing|snowboarding|ice skating|
sledging|cycling|motocross|running|hiking|rock climbing|horse riding|fishing|sailing|rafting|yoga|
camping|dancing|singing|concert|playing music|wedding|birthday party|parade|protest|
picnic|barbecue|cooking|eating|drinking|reading|writing|painting|shopping|sleeping|sitting|walking|
jumping|swinging|climbing a tree|throwing a ball|catching a frisbee|splashing in water|
blowing bubbles|hugging|kissing|laughing|crying|waving|talking on the phone|taking a photo|
working|gardening|waiting|playing in the snow|playing in the sand|swimming under water|
portrait|selfie|close-up|aerial view|black and white photo|screenshot|document|handwriting|map|
drawing|oil painting|cartoon|logo|diagram|chart|poster
"""

_AUDIBLE = """
speech|conversation|whispering|shouting|laughter|crying baby|child playing|crowd|applause|cheering|
singing|choir|humming|whistling|cough|sneeze|snoring|breathing|footsteps|clapping|heartbeat|kiss|
dog barking|cat meowing|cow|sheep|pig|horse neighing|horse hooves|rooster|hen|duck|goose|crow|owl|
seagulls|birdsong|pigeon|frog|crickets|bees buzzing|fly buzzing|wolf howling|lion roaring|
rain|thunder|wind|sea waves|stream|waterfall|dripping water|pouring water|boiling water|
crackling fire|rustling leaves|
car engine|car horn|motorcycle|bus|truck|train|train whistle|tram|airplane|helicopter|siren|boat|
bicycle bell|skidding tyres|engine starting|
clock ticking|alarm clock|telephone ringing|doorbell|door knock|door slamming|creaking door|
keyboard typing|mouse click|printer|camera shutter|vacuum cleaner|washing machine|hair dryer|
microwave|frying food|chopping|cutlery|glass breaking|can opening|cork popping|tap running|
toilet flushing|shower|toothbrush|scissors|tearing paper|zip|coins|hammer|saw|chainsaw|drill|
lawn mower|sewing machine|air conditioner|fan|
music|guitar|piano|violin|cello|flute|trumpet|saxophone|drums|cymbal|organ|accordion|harp|bell|
church bells|wind chimes|electronic music|orchestra|
fireworks|gunshot|explosion|beep|static noise|silence
"""


def _listed(written: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(word.split()) for word in written.split("|")))


EVERYDAY: dict[Modality, tuple[str, ...]] = {"image": _listed(_VISIBLE), "audio": _listed(_AUDIBLE)}
"""By modality, what is often seen, or heard."""
