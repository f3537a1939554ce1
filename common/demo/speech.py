"""Built-in sound of run_keyword.py, run_asr.py and run_ser.py, so that `--demo` runs without a network and learns.

Synthetic: pulses at the pitch of a voice, and noise, are shaped by formants, sound after sound. What the scripts have
to tell apart is where speech has it: sounds in the formants, speakers in pitch and formant shift, emotion in pitch,
loudness, tempo and tilt. Folders and names are those of Speech Commands, LibriSpeech and ShEMO; the same every time.
"""

import itertools
from collections import namedtuple
from pathlib import Path

import numpy as np
import soundfile

from common.demo.tiny_speech import tiny_speech_model
from common.speech.audio import RATE
from common.speech.corpora import LISTS, NOISE

FADE = 0.012  # seconds in which one sound goes over into the next

# Formants (centre and width in Hz, amplitude); the share of pulses, the rest being noise.
Sound = namedtuple("Sound", "formants voiced seconds")
# Hz; factor on the formants; noise relative to the pulses; factor on the speed.
Voice = namedtuple("Voice", "pitch formant_shift breath tempo")
# Factor on the voice's pitch, its relative change and swing; factor on the speed; depth of the loudness's tremor; dB an
# octave that is lost above 500 Hz (loud voices lose less); factor on the voice's breath.
Manner = namedtuple("Manner", "pitch slope swing tempo tremor tilt breath", defaults=(1, -0.1, 0.06, 1, 0.1, 6, 1))
VOWELS = {"A": (800, 1300, 2600), "E": (500, 1900, 2700), "I": (280, 2400, 3300), "O": (500, 900, 2500)}
VOWELS |= {"U": (320, 700, 2200)}
SOUNDS = {
    name: Sound(((first, 120, 1.0), (second, 160, 0.8), (third, 220, 0.4)), voiced=0.97, seconds=0.1)
    for name, (first, second, third) in VOWELS.items()
}
SOUNDS |= {
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
OTHER_WORDS |= {"sheila": "HILA", "tree": "TRI"}  # they become `_unknown_`
KEYWORD_SPEAKERS = {"train": 20, "validation": 6, "test": 8}
NOISES = {"white_noise": 0.0, "pink_noise": 1.0, "running_tap": 0.4}  # file -> colour
UTTERANCES = {"train-clean-100": (15, 10), "dev-clean": (5, 8), "test-clean": (5, 8)}  # speakers, utterances of each
NOUNS = ("HORSE", "HOUSE", "STONE", "STAR", "TRAIN", "ROSE", "NURSE", "SHORE", "EARTH", "SUN", "SHIRT", "TREE")
VERBS = ("RUNS", "RISES", "TURNS", "SITS", "STARTS", "SHINES", "EATS", "HEARS", "RETURNS", "ROARS")
PLACES = ("NEAR THE", "IN THE", "ON THE", "AT THE", "INTO THE")
NEUTRAL = Manner()
MANNERS = {  # emotion letter -> how it is said
    "A": Manner(pitch=1.35, swing=0.16, tempo=1.2, tremor=0.5, tilt=1.0),
    "F": Manner(pitch=1.6, swing=0.05, tempo=1.3, tremor=0.6, tilt=7.0, breath=4.0),
    "H": Manner(pitch=1.5, slope=0.2, swing=0.22, tempo=1.1, tremor=0.2, tilt=3.5),
    "N": NEUTRAL,
    "S": Manner(pitch=0.85, slope=-0.25, swing=0.03, tempo=0.75, tremor=0.3, tilt=11.0, breath=3.0),
    "W": Manner(pitch=1.45, slope=0.7, swing=0.05, tempo=0.95, tremor=0.1, tilt=5.0, breath=2.0),
}
ACTORS = [("F", number) for number in range(1, 9)] + [("M", number) for number in range(1, 13)]
# Emotion letter -> actors, clips of each.
CLIPS = {"N": (20, 5.5), "A": (20, 5), "S": (14, 2.7), "W": (9, 2.4), "H": (9, 2.3), "F": (6, 2)}


def keyword_demo(folder: Path, architecture: str = "distilhubert") -> dict[str, str]:
    """Writes a folder like Speech Commands and a tiny model of `architecture`; returns the paths."""
    random, data = np.random.default_rng(0), Path(folder) / "speech_commands"
    lists: dict[str, list[str]] = {split: [] for split in KEYWORD_SPEAKERS}
    for split, speakers in KEYWORD_SPEAKERS.items():
        for speaker in range(speakers):
            code = f"{random.integers(2**32):08x}"
            voice = _draw_voice(random, female=speaker % 2 == 0)
            for word, sounds in (KEYWORDS | OTHER_WORDS).items():
                for take in range(2 if split == "train" and speaker % 2 else 1):
                    samples = RATE if random.random() < 0.8 else int(RATE * random.uniform(0.6, 1))
                    name = f"{word}/{code}_nohash_{take}.wav"
                    _write(data / name, _recorded(_spoken(sounds, voice, random), random, samples))
                    lists[split].append(name)
    for split, name in LISTS.items():
        (data / name).write_text("\n".join(sorted(lists[split])), "utf-8")
    for name, colour in NOISES.items():
        _write(data / NOISE / f"{name}.wav", 0.5 * _background(12 * RATE, random, colour))
    return _made(folder, data, architecture)


def asr_demo(folder: Path, architecture: str = "distilhubert") -> dict[str, str]:
    """Writes a folder like LibriSpeech and a tiny model of `architecture`; returns the paths. A letter is a sound."""
    random, data, numbers = np.random.default_rng(0), Path(folder) / "LibriSpeech", itertools.count(100)
    texts = [" ".join(words) for words in itertools.product(["THE"], NOUNS, VERBS, PLACES, NOUNS)]
    texts = iter(random.permutation(texts).tolist())
    for subset, (speakers, utterances) in UTTERANCES.items():
        for speaker in itertools.islice(numbers, speakers):
            place, voice = data / subset / f"{speaker}/1", _draw_voice(random, female=bool(random.integers(2)))
            lines = []
            for number in range(utterances):
                name, text = f"{speaker}-1-{number:04d}", next(texts)
                _write(place / f"{name}.flac", _recorded(_spoken(text, voice, random), random))
                lines.append(f"{name} {text}")
            (place / f"{speaker}-1.trans.txt").write_text("\n".join(lines), "utf-8")
    return _made(folder, data, architecture)


def emotion_demo(folder: Path, architecture: str = "hubert") -> dict[str, str]:
    """Writes folders like ShEMO's and a tiny model of `architecture`; returns the paths.

    Neutral and anger are frequent and fear is rare, as in the original, but every emotion has at least six speakers, so
    that a split by speaker can have all of them everywhere.
    """
    random, data = np.random.default_rng(0), Path(folder) / "shemo"
    voices = [_draw_voice(random, female=gender == "F") for gender, _ in ACTORS]
    for emotion, (actors, clips) in CLIPS.items():
        for actor in random.permutation(len(ACTORS))[:actors]:
            gender, number = ACTORS[actor]
            for take in range(round(clips * random.uniform(0.7, 1.3))):
                name = f"{'female' if gender == 'F' else 'male'}/{gender}{number:02d}{emotion}{take + 1:02d}.wav"
                plain, full = np.array(NEUTRAL), np.array(MANNERS[emotion])
                manner = Manner(*(plain + random.uniform(0.3, 1.2) * (full - plain)))  # sometimes weak
                starts, ends = [*"NMLRSHTG"], [*"AEIOU"]  # what is said tells nothing of the emotion
                said = [random.choice(starts) + random.choice(ends) for _ in range(2 * random.integers(3, 7))]
                said = " ".join(map("".join, zip(said[::2], said[1::2])))
                _write(data / name, _recorded(_spoken(said, voices[actor], random, manner), random))
    return _made(folder, data, architecture)


def _made(folder: Path, data: Path, architecture: str) -> dict[str, str]:
    return {"model": str(tiny_speech_model(architecture, Path(folder) / "model")), "data_dir": str(data)}


def _write(path: Path, sound: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE, subtype="PCM_16")


def _spoken(sounds: str, voice: Voice, random: np.random.Generator, manner: Manner = NEUTRAL) -> np.ndarray:
    """float32 [samples] at `RATE`: the sounds (keys of `SOUNDS`; a space is a pause) one after another, peak 1."""
    seconds = [SOUNDS[name].seconds if name in SOUNDS else 0.11 for name in sounds]
    lengths = [int(RATE * random.uniform(0.85, 1.2) * length / (voice.tempo * manner.tempo)) for length in seconds]
    fade, begin = int(RATE * FADE), 0
    total = sum(lengths) + fade
    time = np.linspace(0, 1, total)
    swing = manner.swing * np.sin(2 * np.pi * (1.3 * total / RATE * time + random.uniform()))
    pitch = voice.pitch * manner.pitch * (1 + manner.slope * (time - 0.5) + swing)
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0) * np.sqrt(RATE / pitch)  # as strong as the noise
    noise, speech = random.normal(size=total), np.zeros(total)
    breath = noise * voice.breath * manner.breath
    for name, length in zip(sounds, lengths):
        if sound := SOUNDS.get(name):
            part = slice(begin, begin + length + fade)
            source = sound.voiced * (pulses[part] + breath[part]) + (1 - sound.voiced) * noise[part]
            hertz = np.fft.rfftfreq(len(source), 1 / RATE)
            gain = np.zeros_like(hertz)
            for centre, width, amplitude in sound.formants:
                centre *= voice.formant_shift if sound.voiced else 1.0
                gain += amplitude * np.exp(-(((hertz - centre) / width) ** 2) / 2)
            if sound.voiced:  # the formants hold the usual loss already
                gain *= np.maximum(hertz / 500, 1) ** ((6.0 - manner.tilt) / 6.02)
            window = np.sin(np.pi / 2 * np.minimum(1, (np.arange(length + fade) + 0.5) / fade)) ** 2
            speech[part] += np.fft.irfft(np.fft.rfft(source) * gain, len(source)) * window * window[::-1]
        begin += length
    phase = 2 * np.pi * (3 * np.arange(total) / RATE + random.uniform())
    speech *= 1 - manner.tremor * (0.5 + 0.5 * np.sin(phase))
    return (speech / np.abs(speech).max()).astype(np.float32)


def _recorded(speech: np.ndarray, random: np.random.Generator, samples: int | None = None) -> np.ndarray:
    """float32 [samples]: the speech somewhere in a clip of that length (default: with a short margin) with noise."""
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


def _background(samples: int, random: np.random.Generator, colour: float) -> np.ndarray:
    """float32 [samples] of noise with peak 1; `colour` 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(random.normal(size=samples))
    spectrum /= np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 50) ** (colour / 2)
    noise = np.fft.irfft(spectrum, samples)
    return (noise / np.abs(noise).max()).astype(np.float32)
