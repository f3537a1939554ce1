"""Built-in sound of run_keyword.py, run_asr.py and run_ser.py, so that `--demo` runs without a network and learns.

Synthetic throughout: nobody speaks here. Folders and names are those of Speech Commands, LibriSpeech and ShEMO; a
function of the seed alone: the same files, byte for byte, on every run. Not for measuring anything but that the scripts
work. Speakers are apart between the splits, or must be set apart by the script where the original has no splits.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from common.legacy.audio import RATE
from common.legacy.synthetic_speech import NEUTRAL, Manner, background, draw_voice, recorded, speak
from common.legacy.tiny_speech import speech_twin_of, tiny_speech_model

KEYWORDS = {"yes": "IES", "no": "NOU", "stop": "STO", "go": "GOU"}  # word -> its sounds
OTHER_WORDS = {  # what becomes `_unknown_`: two clips of three, as in SUPERB
    "cat": "GAT",
    "eight": "EIT",
    "happy": "HATI",
    "house": "HAUS",
    "nine": "NAIN",
    "seven": "SEMEN",
    "sheila": "HILA",
    "tree": "TRI",
}
KEYWORD_SPEAKERS = {"training": 20, "validation": 6, "testing": 8}
NOISES = {"white_noise": 0.0, "pink_noise": 1.0, "running_tap": 0.4}  # file -> colour
NOISE_SECONDS = 12

UTTERANCES = {"train-clean-100": (15, 10), "dev-clean": (5, 8), "test-clean": (5, 8)}  # speakers, utterances of each
WORDS = {  # spelled with ten letters
    "adjective": ("OTHER", "NEAR", "SHORT", "RARE", "HOT", "SOUTHERN", "NORTHERN"),
    "noun": ("HORSE", "HOUSE", "STONE", "STAR", "TRAIN", "ROSE", "NURSE", "SHORE", "EARTH", "SUN", "SHIRT", "TREE"),
    "verb": ("RUNS", "RISES", "TURNS", "SITS", "STARTS", "SHINES", "EATS", "HEARS", "RETURNS", "ROARS"),
    "preposition": ("NEAR", "IN", "ON", "AT", "INTO"),
    "adverb": ("THEN", "SOON", "HERE", "THERE"),
}
PATTERNS = ("verb adverb", "verb preposition THE noun", "verb preposition THE adjective noun")  # what follows THE noun

MANNERS = {  # emotion letter -> how it is said
    "A": Manner(pitch=1.35, swing=0.16, tempo=1.2, tremor=0.5, tremor_rate=5.0, tilt=1.0),
    "F": Manner(pitch=1.6, swing=0.05, jitter=0.08, tempo=1.3, tremor=0.6, tremor_rate=9.0, tilt=7.0, breath=4.0),
    "H": Manner(pitch=1.5, slope=0.2, swing=0.22, tempo=1.1, tremor=0.2, tilt=3.5),
    "N": NEUTRAL,
    "S": Manner(pitch=0.85, slope=-0.25, swing=0.03, tempo=0.75, tremor=0.3, tremor_rate=1.5, tilt=11.0, breath=3.0),
    "W": Manner(pitch=1.45, slope=0.7, swing=0.05, tempo=0.95, tremor=0.1, tilt=5.0, breath=2.0),
}
ACTORS = {"F": 8, "M": 12}  # gender -> how many
# emotion -> actors, clips of each
CLIPS = {"N": (20, 5.5), "A": (20, 5), "S": (14, 2.7), "W": (9, 2.4), "H": (9, 2.3), "F": (6, 2)}


def keyword_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes a folder like Speech Commands and a tiny model of `architecture` into `folder`.

    Returns the paths: `model` and `data`, a folder of words with `HASH_nohash_N.wav` of at most one second each, the
    lists of validation and testing, which agree with the data set's own hash rule, and `_background_noise_`.
    """
    generator = np.random.default_rng(seed)
    data = Path(folder) / "speech_commands"
    words = KEYWORDS | OTHER_WORDS
    lists: dict[str, list[str]] = {split: [] for split in KEYWORD_SPEAKERS}
    for split, speakers in KEYWORD_SPEAKERS.items():
        for speaker in range(speakers):
            code = _code_of_split(split, generator)
            voice = draw_voice(generator, female=speaker % 2 == 0)
            for word, sounds in words.items():
                for take in range(2 if split == "training" and speaker % 2 else 1):
                    samples = RATE if generator.random() < 0.8 else int(RATE * generator.uniform(0.6, 1))
                    name = f"{word}/{code}_nohash_{take}.wav"
                    _write(data / name, recorded(speak(sounds, voice, generator), generator, samples))
                    lists[split].append(name)
    for split in ("validation", "testing"):
        (data / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in sorted(lists[split])), "utf-8")
    for name, colour in NOISES.items():
        _write(data / "_background_noise_" / f"{name}.wav", 0.5 * background(NOISE_SECONDS * RATE, generator, colour))
    return {"model": _model(folder, architecture, seed), "data": str(data)}


def _code_of_split(split: str, generator: np.random.Generator) -> str:
    """A random speaker's code which the hash rule of Speech Commands puts into the split."""
    while True:
        code = f"{generator.integers(2**32):08x}"
        share = int(hashlib.sha1(code.encode()).hexdigest(), 16) % 2**27 / (2**27 - 1)
        if split == ("validation" if share < 0.1 else "testing" if share < 0.2 else "training"):
            return code


def asr_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes a folder like LibriSpeech and a tiny model of `architecture` into `folder`.

    Returns the paths: `model` and `data`, with the subsets train-clean-100, dev-clean and test-clean, in each
    `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac` and a `.trans.txt`. Every letter is one sound, spaces are pauses.
    """
    generator = np.random.default_rng(seed)
    data = Path(folder) / "LibriSpeech"
    seen: set[str] = set()
    speaker = 100
    for subset, (speakers, utterances) in UTTERANCES.items():
        for _ in range(speakers):
            speaker += int(generator.integers(1, 90))
            chapter = int(generator.integers(1000, 200_000))
            place = data / subset / f"{speaker}/{chapter}"
            voice = draw_voice(generator, female=bool(generator.integers(2)))
            lines = []
            for number in range(utterances):
                name, text = f"{speaker}-{chapter}-{number:04d}", _sentence(seen, generator)
                _write(place / f"{name}.flac", recorded(speak(text, voice, generator), generator))
                lines.append(f"{name} {text}\n")
            (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines), "utf-8")
    return {"model": _model(folder, architecture, seed), "data": str(data)}


def _sentence(seen: set[str], generator: np.random.Generator) -> str:
    """A new sentence; `seen` collects them."""
    while True:
        slots = f"THE {generator.choice(('noun', 'adjective noun'))} {generator.choice(PATTERNS)}".split()
        text = " ".join(str(generator.choice(WORDS[slot])) if slot in WORDS else slot for slot in slots)
        if text not in seen:
            seen.add(text)
            return text


def emotion_demo(folder: Path, architecture: str, seed: int = 0) -> dict[str, str]:
    """Writes female.zip and male.zip like ShEMO's and a tiny model of `architecture` into `folder`.

    Returns the paths: `model` and `data`, the folder of the two. Files are named `M05N01.wav`: gender, speaker, emotion
    (A F H N S W), number. Neutral and anger are frequent and fear is rare, as in the original, but every emotion has at
    least six speakers, so that a split by speaker can have all of them everywhere.
    """
    generator = np.random.default_rng(seed)
    data = Path(folder) / "shemo"
    data.mkdir(parents=True, exist_ok=True)
    actors = [(gender, number + 1) for gender, count in ACTORS.items() for number in range(count)]
    who = {
        emotion: {actors[at] for at in generator.permutation(len(actors))[:count]}
        for emotion, (count, _) in CLIPS.items()
    }
    for gender, archive in (("F", "female"), ("M", "male")):
        with zipfile.ZipFile(data / f"{archive}.zip", "w") as file:
            for actor in (actor for actor in actors if actor[0] == gender):
                voice = draw_voice(generator, female=gender == "F")
                for emotion in sorted(who):
                    clips = round(CLIPS[emotion][1] * generator.uniform(0.7, 1.3)) if actor in who[emotion] else 0
                    for number in range(1, clips + 1):
                        name = f"{archive}/{gender}{actor[1]:02d}{emotion}{number:02d}.wav"
                        sound = recorded(
                            speak(_babble(generator), voice, generator, _varied(emotion, generator)), generator
                        )
                        file.writestr(zipfile.ZipInfo(name), _wav(sound))  # ZipInfo: the same date in every run
    return {"model": _model(folder, architecture, seed), "data": str(data)}


def _babble(generator: np.random.Generator) -> str:
    """Words of syllables, for one to four seconds: what is said tells nothing of the emotion."""
    words = int(generator.choice((3, 3, 3, 4, 4, 5, 7)))
    consonants, vowels = generator.choice([*"NMLRSHTG"], 2 * words), generator.choice([*"AEIOU"], 2 * words)
    syllables = [consonant + vowel for consonant, vowel in zip(consonants, vowels)]
    return " ".join(first + second for first, second in zip(syllables[::2], syllables[1::2]))


def _varied(emotion: str, generator: np.random.Generator) -> Manner:
    """The manner of an emotion, sometimes weak, so that not every clip can be told."""
    strength = generator.uniform(0.3, 1.2)
    return Manner(*(plain + strength * (full - plain) for plain, full in zip(NEUTRAL, MANNERS[emotion])))


def _model(folder: Path, architecture: str, seed: int) -> str:
    name = f"tiny-{speech_twin_of(architecture).model_type}"
    return str(tiny_speech_model(architecture, Path(folder) / name, seed=seed))


def _write(path: Path, sound: np.ndarray) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE, subtype="PCM_16")


def _wav(sound: np.ndarray) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
