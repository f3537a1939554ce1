"""Built-in sound of run_keyword.py, run_asr.py and run_ser.py, so that `--demo` runs without a network and learns.

Synthetic throughout: a source (pulses at the pitch of a voice, and noise) is shaped by formants, sound after sound.
Nobody would take it for speech, but what the scripts have to tell apart is in it where speech has it: sounds in the
formants, speakers in pitch and formant shift, emotion in pitch, loudness, tempo and tilt. Folders and names are those
of Speech Commands, LibriSpeech and ShEMO; a function of the seed alone, byte for byte.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.demo.tiny_speech import tiny_speech_model, twin_of
from common.speech.audio import RATE
from common.speech.corpora import LISTS, NOISE, split_of

FADE = 0.012  # seconds in which one sound goes over into the next


class Sound(NamedTuple):
    """A phone."""

    formants: tuple[tuple[float, float, float], ...]  # centre and width in Hz, amplitude
    voiced: float  # share of the pulses; the rest is noise
    seconds: float


class Voice(NamedTuple):
    """A speaker."""

    pitch: float  # Hz
    formant_shift: float  # factor: short vocal tracts have high formants
    breath: float  # noise in voiced sounds, relative to the pulses
    tempo: float  # sounds last 1 / tempo times as long


class Manner(NamedTuple):
    """How something is said."""

    pitch: float = 1.0  # factor on the voice's own
    slope: float = -0.1  # relative change of the pitch from the beginning to the end
    swing: float = 0.06  # relative depth of the pitch's slow up and down
    jitter: float = 0.01  # relative scatter of the pitch from 5 ms to 5 ms
    tempo: float = 1.0
    tremor: float = 0.1  # depth of the loudness's modulation, 0 to 1
    tremor_rate: float = 3.0  # Hz
    tilt: float = 6.0  # dB an octave that the source loses above 500 Hz; loud voices lose less
    breath: float = 1.0  # factor on the voice's own


def _vowel(first: float, second: float, third: float) -> Sound:
    return Sound(((first, 120, 1.0), (second, 160, 0.8), (third, 220, 0.4)), voiced=0.97, seconds=0.1)


SOUNDS = {
    "A": _vowel(800, 1300, 2600),
    "E": _vowel(500, 1900, 2700),
    "I": _vowel(280, 2400, 3300),
    "O": _vowel(500, 900, 2500),
    "U": _vowel(320, 700, 2200),
    "N": Sound(((250, 100, 0.7), (1500, 150, 0.15), (4400, 300, 0.3)), voiced=0.95, seconds=0.08),
    "M": Sound(((200, 100, 0.7), (1050, 150, 0.3)), voiced=0.95, seconds=0.08),
    "L": Sound(((380, 120, 0.6), (3000, 250, 0.6)), voiced=0.95, seconds=0.08),
    "R": Sound(((450, 120, 0.5), (1150, 120, 0.5), (1650, 150, 0.7)), voiced=0.9, seconds=0.08),
    "S": Sound(((6400, 700, 0.5),), voiced=0.0, seconds=0.1),
    "H": Sound(((3300, 600, 0.5),), voiced=0.0, seconds=0.09),
    "T": Sound(((4800, 400, 0.6),), voiced=0.0, seconds=0.06),
    "G": Sound(((1600, 300, 0.5),), voiced=0.0, seconds=0.06),
}
KEYWORDS = {"yes": "IES", "no": "NOU", "stop": "STO", "go": "GOU"}  # word -> its sounds
OTHER_WORDS = {"cat": "GAT", "eight": "EIT", "happy": "HATI", "house": "HAUS", "nine": "NAIN", "seven": "SEMEN"}
OTHER_WORDS |= {"sheila": "HILA", "tree": "TRI"}  # they become `_unknown_`: two clips of three, as in SUPERB
KEYWORD_SPEAKERS = {"train": 20, "validation": 6, "test": 8}
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
NEUTRAL = Manner()
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


def keyword_demo(folder: Path, architecture: str = "distilhubert", seed: int = 0) -> dict[str, str]:
    """Writes a folder like Speech Commands and a tiny model of `architecture` into `folder`.

    Returns the paths: `model` and `data_dir`, a folder of words with `HASH_nohash_N.wav` of at most one second each,
    the lists of validation and testing, which agree with the data set's own hash rule, and `_background_noise_`.
    """
    random, data = np.random.default_rng(seed), Path(folder) / "speech_commands"
    lists: dict[str, list[str]] = {split: [] for split in KEYWORD_SPEAKERS}
    for split, speakers in KEYWORD_SPEAKERS.items():
        for speaker in range(speakers):
            code = ""
            while not code or split_of(code) != split:
                code = f"{random.integers(2**32):08x}"
            voice = _draw_voice(random, female=speaker % 2 == 0)
            for word, sounds in (KEYWORDS | OTHER_WORDS).items():
                for take in range(2 if split == "train" and speaker % 2 else 1):
                    samples = RATE if random.random() < 0.8 else int(RATE * random.uniform(0.6, 1))
                    name = f"{word}/{code}_nohash_{take}.wav"
                    _write(data / name, recorded(speak(sounds, voice, random), random, samples))
                    lists[split].append(name)
    for split, name in LISTS.items():
        (data / name).write_text("".join(f"{clip}\n" for clip in sorted(lists[split])), "utf-8")
    for name, colour in NOISES.items():
        _write(data / NOISE / f"{name}.wav", 0.5 * _background(NOISE_SECONDS * RATE, random, colour))
    return {"model": _model(folder, architecture, seed), "data_dir": str(data)}


def asr_demo(folder: Path, architecture: str = "distilhubert", seed: int = 0) -> dict[str, str]:
    """Writes a folder like LibriSpeech and a tiny model of `architecture` into `folder`.

    Returns the paths: `model` and `data_dir`, with the subsets train-clean-100, dev-clean and test-clean, in each
    `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac` and a `.trans.txt`. Every letter is one sound, spaces are pauses.
    """
    random, data, speaker = np.random.default_rng(seed), Path(folder) / "LibriSpeech", 100
    seen: set[str] = set()
    for subset, (speakers, utterances) in UTTERANCES.items():
        for _ in range(speakers):
            speaker += int(random.integers(1, 90))
            chapter = int(random.integers(1000, 200_000))
            place = data / subset / f"{speaker}/{chapter}"
            voice = _draw_voice(random, female=bool(random.integers(2)))
            lines = []
            for number in range(utterances):
                name, text = f"{speaker}-{chapter}-{number:04d}", _sentence(seen, random)
                _write(place / f"{name}.flac", recorded(speak(text, voice, random), random))
                lines.append(f"{name} {text}\n")
            (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines), "utf-8")
    return {"model": _model(folder, architecture, seed), "data_dir": str(data)}


def emotion_demo(folder: Path, architecture: str = "hubert", seed: int = 0) -> dict[str, str]:
    """Writes female.zip and male.zip like ShEMO's and a tiny model of `architecture` into `folder`.

    Returns the paths: `model` and `data_dir`, the folder of the two. Files are named `M05N01.wav`: gender, speaker,
    emotion (A F H N S W), number. Neutral and anger are frequent and fear is rare, as in the original, but every
    emotion has at least six speakers, so that a split by speaker can have all of them everywhere.
    """
    random, data = np.random.default_rng(seed), Path(folder) / "shemo"
    data.mkdir(parents=True, exist_ok=True)
    actors = [(gender, number + 1) for gender, count in ACTORS.items() for number in range(count)]
    who = {e: {actors[at] for at in random.permutation(len(actors))[:count]} for e, (count, _) in CLIPS.items()}
    for gender, archive in (("F", "female"), ("M", "male")):
        with zipfile.ZipFile(data / f"{archive}.zip", "w") as file:
            for actor in (actor for actor in actors if actor[0] == gender):
                voice = _draw_voice(random, female=gender == "F")
                for emotion in sorted(who):
                    clips = round(CLIPS[emotion][1] * random.uniform(0.7, 1.3)) if actor in who[emotion] else 0
                    for number in range(1, clips + 1):
                        name = f"{archive}/{gender}{actor[1]:02d}{emotion}{number:02d}.wav"
                        sound = recorded(speak(_babble(random), voice, random, _varied(emotion, random)), random)
                        file.writestr(zipfile.ZipInfo(name), _wav(sound))  # ZipInfo: the same date in every run
    return {"model": _model(folder, architecture, seed), "data_dir": str(data)}


def _sentence(seen: set[str], random: np.random.Generator) -> str:
    """A new sentence; `seen` collects them."""
    while True:
        slots = f"THE {random.choice(('noun', 'adjective noun'))} {random.choice(PATTERNS)}".split()
        text = " ".join(str(random.choice(WORDS[slot])) if slot in WORDS else slot for slot in slots)
        if text not in seen:
            seen.add(text)
            return text


def _babble(random: np.random.Generator) -> str:
    """Words of syllables, for one to four seconds: what is said tells nothing of the emotion."""
    words = int(random.choice((3, 3, 3, 4, 4, 5, 7)))
    consonants, vowels = random.choice([*"NMLRSHTG"], 2 * words), random.choice([*"AEIOU"], 2 * words)
    syllables = [consonant + vowel for consonant, vowel in zip(consonants, vowels)]
    return " ".join(first + second for first, second in zip(syllables[::2], syllables[1::2]))


def _varied(emotion: str, random: np.random.Generator) -> Manner:
    """The manner of an emotion, sometimes weak, so that not every clip can be told."""
    strength = random.uniform(0.3, 1.2)
    return Manner(*(plain + strength * (full - plain) for plain, full in zip(NEUTRAL, MANNERS[emotion])))


def _model(folder: Path, architecture: str, seed: int) -> str:
    return str(tiny_speech_model(architecture, Path(folder) / f"tiny-{twin_of(architecture)}", seed=seed))


def _write(path: Path, sound: np.ndarray) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE, subtype="PCM_16")


def _wav(sound: np.ndarray) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


# Sound


def speak(sounds: str, voice: Voice, random: np.random.Generator, manner: Manner = NEUTRAL) -> np.ndarray:
    """float32 [samples] at `RATE`: the sounds (keys of `SOUNDS`; a space is a pause) one after another, peak 1."""
    tempo = voice.tempo * manner.tempo
    seconds = [SOUNDS[name].seconds if name in SOUNDS else 0.11 for name in sounds]
    lengths = [int(RATE * random.uniform(0.85, 1.2) * length / tempo) for length in seconds]
    fade = int(RATE * FADE)
    total, begin = sum(lengths) + fade, 0
    pulses, noise = _source(total, voice, manner, random)
    noise_of_voice, speech = noise * voice.breath * manner.breath, np.zeros(total)
    for name, length in zip(sounds, lengths):
        if name in SOUNDS:
            sound, part = SOUNDS[name], slice(begin, begin + length + fade)
            source = sound.voiced * (pulses[part] + noise_of_voice[part]) + (1 - sound.voiced) * noise[part]
            window = np.sin(np.pi / 2 * np.minimum(1, (np.arange(length + fade) + 0.5) / fade)) ** 2
            speech[part] += _shaped(source, sound, voice, manner) * window * window[::-1]
        begin += length
    phase = 2 * np.pi * (manner.tremor_rate * np.arange(total) / RATE + random.uniform())
    speech *= 1 - manner.tremor * (0.5 + 0.5 * np.sin(phase))
    return (speech / np.abs(speech).max()).astype(np.float32)


def recorded(speech: np.ndarray, random: np.random.Generator, samples: int | None = None) -> np.ndarray:
    """float32 [samples]: the speech somewhere in a clip of that length (default: with a short margin) with noise.

    How loud it is, and the noise, are random.
    """
    samples = samples or len(speech) + int(RATE * random.uniform(0.1, 0.25))
    speech = speech[:samples]
    clip = _background(samples, random, colour=random.uniform(0, 1)) * random.uniform(0.01, 0.04)
    onset = int(random.uniform(0, 1) * (samples - len(speech)))
    clip[onset : onset + len(speech)] += speech
    return clip * np.float32(random.uniform(0.2, 0.9) / np.abs(clip).max())


def _draw_voice(random: np.random.Generator, female: bool) -> Voice:
    low, high = (170, 240) if female else (90, 140)
    shift = random.uniform(1.04, 1.12) if female else random.uniform(0.94, 1.02)
    return Voice(random.uniform(low, high), shift, random.uniform(0.02, 0.1), random.uniform(0.9, 1.15))


def _source(samples: int, voice: Voice, manner: Manner, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Pulses at the pitch, and white noise, both [samples] and of about equal power."""
    time = np.linspace(0, 1, samples)
    swing = manner.swing * np.sin(2 * np.pi * (1.3 * samples / RATE * time + random.uniform()))
    scatter = np.repeat(random.normal(0, manner.jitter, samples // 80 + 1), 80)[:samples]
    pitch = voice.pitch * manner.pitch * (1 + manner.slope * (time - 0.5) + swing + scatter)
    periods = np.floor(np.cumsum(pitch) / RATE)
    return np.diff(periods, prepend=0) * np.sqrt(RATE / pitch), random.normal(size=samples)


def _shaped(source: np.ndarray, sound: Sound, voice: Voice, manner: Manner) -> np.ndarray:
    """The source behind the formants of a sound."""
    size = _fast(len(source))
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    gain = np.zeros_like(hertz)
    for centre, width, amplitude in sound.formants:
        centre *= voice.formant_shift if sound.voiced else 1.0
        gain += amplitude * np.exp(-(((hertz - centre) / width) ** 2) / 2)
    if sound.voiced:
        gain *= np.maximum(hertz / 500, 1) ** ((6.0 - manner.tilt) / 6.02)  # the formants hold the usual loss already
    return np.fft.irfft(np.fft.rfft(source, size) * gain, size)[: len(source)]


def _background(samples: int, random: np.random.Generator, colour: float) -> np.ndarray:
    """float32 [samples] of noise with peak 1; `colour` 0 is white, 1 pink, 2 brown."""
    size = _fast(samples)
    spectrum = np.fft.rfft(random.normal(size=size))
    spectrum /= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50) ** (colour / 2)
    noise = np.fft.irfft(spectrum, size)[:samples]
    return (noise / np.abs(noise).max()).astype(np.float32)


def _fast(samples: int) -> int:
    """The next power of two: a Fourier transform of a prime length takes many times as long."""
    return 1 << (samples - 1).bit_length()
