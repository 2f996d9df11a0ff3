"""What people call the sounds that the built-in model learns: several phrases per label."""

from __future__ import annotations

import re

FRAMES = (
    "{}",
    "the sound of {}",
    "sound of {}",
    "a recording of {}",
    "{} in the background",
    "you can hear {}",
    "{} can be heard",
    "the noise of {}",
)
"""Filled with each name of a sound."""

KNOWN = {
    "dog": "dog bark|a dog barking|barking|the bark of a dog|a barking dog|dogs barking|a dog|"
    "a puppy barking|a dog barks loudly|woof",
    "rooster": "rooster|a rooster crowing|a crowing rooster|the crow of a rooster|"
    "a cock crowing|cock-a-doodle-doo|a colorful rooster|a cockerel at dawn",
    "rain": "rain|rain falling|heavy rain|falling rain|raindrops|rain on a roof|"
    "a rain shower|pouring rain|it is raining|a rainy day",
    "sea waves": "sea waves|waves|ocean waves|waves crashing on the shore|the sea|"
    "waves breaking on a beach|surf|waves rolling in|the ocean",
    "crying baby": "baby cry|a baby crying|a crying baby|crying|an infant wailing|"
    "a newborn baby crying|a baby screams|a sobbing child",
    "clock": "clock tick|a clock ticking|ticking|a ticking clock|tick tock|"
    "the ticking of a clock|a wall clock|an alarm clock ticking|a watch ticking",
    "sneeze": "person sneeze|sneezing|a person sneezing|a sneeze|someone sneezes|"
    "a man sneezing|a woman sneezing|achoo",
    "helicopter": "helicopter|a helicopter|a helicopter flying|helicopter rotor blades|"
    "a helicopter overhead|a chopper flying past|the rotor of a helicopter",
    "chainsaw": "chainsaw|a chainsaw|a chain saw cutting wood|a chainsaw running|"
    "someone sawing a tree with a chainsaw|a chainsaw revving|a petrol saw",
    "fire": "fire crackling|a crackling fire|crackling|a fire burning|a campfire|"
    "a fireplace|burning wood|the crackle of flames|a bonfire",
}
"""ESC-10's ten concepts, their phrases separated by bars."""

ESC10 = {
    "Dog bark": "dog",
    "Rooster": "rooster",
    "Rain": "rain",
    "Sea waves": "sea waves",
    "Baby cry": "crying baby",
    "Clock tick": "clock",
    "Person sneeze": "sneeze",
    "Helicopter": "helicopter",
    "Chainsaw": "chainsaw",
    "Fire crackling": "fire",
}
"""The concepts of ESC-10's labels."""

VERBS = {
    "growling": "badger|bear",
    "squeaking": "bat|mouse",
    "buzzing": "bee|hornet",
    "grunting": "bison|gorilla|pig",
    "singing": "blackbird|lark|whale",
    "bellowing": "bull|deer",
    "groaning": "camel",
    "meowing": "cat",
    "screeching": "chimpanzee",
    "mooing": "cow",
    "cawing": "crow",
    "calling": "cuckoo",
    "clicking": "dolphin",
    "braying": "donkey|zebra",
    "quacking": "drake|duck",
    "trumpeting": "elephant",
    "croaking": "frog",
    "honking": "gander",
    "bleating": "goat|lamb|mountain goat|ram|sheep",
    "chirping": "grasshopper",
    "clucking": "hen",
    "neighing": "horse",
    "roaring": "lion|tiger",
    "hooting": "owl",
    "crying": "seagull",
    "chattering": "squirrel",
    "gobbling": "turkey",
    "barking": "fox|sea lion",
}
"""Verbs for the sounds of animals; animals without one are "calling"."""

THINGS = {
    "apple": "apple|biting into an apple|someone eating an apple|a crunch",
    "camera": "camera|a camera clicking|the shutter of a camera|taking a picture",
    "washing machine": "washing machine|a washing machine running|a spinning washing machine",
    "kettle": "kettle|an electric kettle|a kettle boiling|boiling water",
    "rubber duck": "rubber duck|a squeaky toy|a rubber duck squeaking|a squeak",
    "vacuum cleaner": "vacuum cleaner|a vacuum cleaner running|someone vacuuming|a hoover",
    "closed scissors": "scissors|cutting with scissors|a pair of scissors|snip",
    "open scissors": "scissors|cutting with scissors|a pair of scissors|snip",
    "bottle": "bottle|opening a bottle|a bottle popping open|a cork popping",
    "glass": "glass of water|pouring water into a glass|pouring water|water poured",
    "hammer": "hammer|a hammer hitting a nail|hammering|a blow with a hammer",
    "mallet": "mallet|a metal mallet striking|a mallet hitting metal|a bang",
    "saw": "saw|sawing wood|a hand saw cutting wood|someone sawing",
    "lightning": "thunder|a thunderstorm|lightning|a clap of thunder|thunder rolling",
    "fireworks": "fireworks|fireworks exploding|a firework bursting|bangs of fireworks",
    "fire truck": "fire truck|a siren|the siren of a fire truck|an emergency vehicle|"
    "a fire engine with its siren on",
    "toilet": "toilet|flushing a toilet|a toilet flushing|a flush|water in the toilet",
    "remember died": "bugle|a bugle call|a trumpet playing taps|a solemn bugle",
    "cymbal": "cymbal|a crash cymbal|a cymbal crash|hitting a cymbal",
    "tom drum": "drum|a floor tom|a tom drum|beating a drum|drumming",
    "drum kit": "drum kit|a drum kit playing|drums|a drummer playing|drumming",
    "cello": "cello|a cello playing|someone playing the cello|cello music",
    "violin": "violin|a violin playing|someone playing the violin|violin music",
    "bassoon": "bassoon|a bassoon playing|someone playing the bassoon|bassoon music",
    "gift": "gift|unwrapping a present|tearing wrapping paper|rustling paper",
    "christmas hat": "Santa Claus|ho ho ho|Santa Claus laughing|a Christmas hat|jingle bells",
    "ghost": "ghost|a ghost howling|a spooky sound|a haunted house",
    "spider": "spider|a spider|a creepy sound",
    "checkered flag": "race cars|cars racing|a car race|the end of a race|a racing car engine",
    "apollo": "moon landing|an astronaut on the radio|"
    "a voice from the moon|the Apollo lunar lander|radio talk from space",
    "deep sea vessel": "submarine|a deep sea vessel|sonar|a submarine under water|sonar pings",
    "candy": "candy|hard candy|eating candy|a person saying yum",
    "excited": "excited|an excited person|a cheer|someone cheering",
    "happy": "happy|a happy person|laughing|a cheerful voice",
    "mad": "mad|an angry person|an angry voice|growling in anger",
    "sad": "sad|a sad person|a sad voice|sighing",
}
"""Words in tuxpaint's caption of a thing → its phrases, separated by bars."""


def phrases_of(label: str, *, animal: bool = False) -> tuple[str, tuple[str, ...]]:
    """The name of a label's concept, and phrases for its sound.

    Args:
        label: A label of ESC-10, or a caption of tuxpaint.
        animal: Whether a caption names an animal.
    """
    plain = re.sub(r"^(an?|the) |[.“”!]", "", label, flags=re.IGNORECASE).lower()
    name = ESC10.get(label) or _RENAMED.get(plain, plain)
    words = set(re.findall(r"\w+", plain))
    thing = next((key for key in THINGS if words >= set(key.split()) and not animal), None)
    if thing:
        name, *_ = names = [*THINGS[thing].split("|"), plain]
    elif name in KNOWN:
        names = [*KNOWN[name].split("|"), plain]
    elif animal:
        verbs = (verb for verb in VERBS if name.endswith(tuple(VERBS[verb].split("|"))))
        verb = next(verbs, "calling")
        names = [name, f"a {name}", f"a {name} {verb}", f"{verb} {name}", f"the call of a {name}"]
    else:
        name = plain
        frames = ("a voice saying {}", "someone says {}", "the word {}", "{} spoken aloud")
        return name, (name, label, *(frame.format(name) for frame in frames))
    phrases = [frame.format(thing) for thing in names for frame in FRAMES]
    return name, tuple(dict.fromkeys([*phrases, label]))


_RENAMED = {
    "baby sheep (a lamb)": "lamb",
    "colorful rooster": "rooster",
    "mountaingoat": "mountain goat",
    "tamworth pig": "pig",
    "brown hen": "hen",
    "black cat": "cat",
    "dromedary": "camel",
}
