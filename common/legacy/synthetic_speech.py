"""Sound that is something like speech, made with numpy: for the built-in data of the speech scripts and for tests.

A source (pulses at the pitch of a voice, and noise) is shaped by formants, sound after sound. Nobody would take it for
speech, but what the scripts have to tell apart is in it where speech has it: sounds in the formants, speakers in pitch
and formant shift, emotion in pitch, loudness, tempo and spectral tilt. A function of its arguments and of the state of
the generator alone.
"""

from typing import NamedTuple

import numpy as np

from common.legacy.audio import RATE

FADE = 0.012  # seconds in which one sound goes over into the next


class Sound(NamedTuple):
    """A phone."""

    formants: tuple[tuple[float, float, float], ...]  # centre and width in Hz, amplitude
    voiced: float  # share of the pulses; the rest is noise
    seconds: float


def _vowel(first: float, second: float, third: float) -> Sound:
    return Sound(((first, 120, 1.0), (second, 160, 0.8), (third, 220, 0.4)), voiced=0.97, seconds=0.1)


def _hiss(centre: float, width: float, amplitude: float, seconds: float) -> Sound:
    return Sound(((centre, width, amplitude),), voiced=0.0, seconds=seconds)


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
    "S": _hiss(6400, 700, 0.5, 0.1),
    "H": _hiss(3300, 600, 0.5, 0.09),
    "T": _hiss(4800, 400, 0.6, 0.06),
    "G": _hiss(1600, 300, 0.5, 0.06),
}


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


NEUTRAL = Manner()


def draw_voice(generator: np.random.Generator, female: bool) -> Voice:
    """A random speaker."""
    low, high = (170, 240) if female else (90, 140)
    shift = generator.uniform(1.04, 1.12) if female else generator.uniform(0.94, 1.02)
    return Voice(generator.uniform(low, high), shift, generator.uniform(0.02, 0.1), generator.uniform(0.9, 1.15))


def speak(sounds: str, voice: Voice, generator: np.random.Generator, manner: Manner = NEUTRAL) -> np.ndarray:
    """float32 [samples] at `RATE`: the sounds (keys of `SOUNDS`; a space is a pause) one after another, peak 1."""
    tempo = voice.tempo * manner.tempo
    lengths = [
        int(RATE * generator.uniform(0.85, 1.2) * (SOUNDS[name].seconds if name in SOUNDS else 0.11) / tempo)
        for name in sounds
    ]
    fade = int(RATE * FADE)
    total = sum(lengths) + fade
    pulses, noise = _source(total, voice, manner, generator)
    noise_of_voice = noise * voice.breath * manner.breath
    speech = np.zeros(total)
    begin = 0
    for name, length in zip(sounds, lengths):
        if name in SOUNDS:
            sound, part = SOUNDS[name], slice(begin, begin + length + fade)
            source = sound.voiced * (pulses[part] + noise_of_voice[part]) + (1 - sound.voiced) * noise[part]
            ramp = np.minimum(1, (np.arange(length + fade) + 0.5) / fade)
            window = np.sin(np.pi / 2 * ramp) ** 2
            speech[part] += _shaped(source, sound, voice, manner) * window * window[::-1]
        begin += length
    seconds = np.arange(total) / RATE
    phase = generator.uniform(0, 2 * np.pi)
    speech *= 1 - manner.tremor * (0.5 + 0.5 * np.sin(2 * np.pi * manner.tremor_rate * seconds + phase))
    return (speech / np.abs(speech).max()).astype(np.float32)


def _source(samples: int, voice: Voice, manner: Manner, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Pulses at the pitch, and white noise, both [samples] and of about equal power."""
    time = np.linspace(0, 1, samples)
    seconds = samples / RATE
    swing = manner.swing * np.sin(2 * np.pi * (1.3 * seconds * time + generator.uniform()))
    scatter = np.repeat(generator.normal(0, manner.jitter, samples // 80 + 1), 80)[:samples]
    pitch = voice.pitch * manner.pitch * (1 + manner.slope * (time - 0.5) + swing + scatter)
    periods = np.floor(np.cumsum(pitch) / RATE)
    pulses = np.diff(periods, prepend=0) * np.sqrt(RATE / pitch)
    return pulses, generator.normal(size=samples)


def _shaped(source: np.ndarray, sound: Sound, voice: Voice, manner: Manner) -> np.ndarray:
    """The source behind the formants of a sound."""
    size = _fast(len(source))
    spectrum = np.fft.rfft(source, size)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    gain = np.zeros_like(hertz)
    for centre, width, amplitude in sound.formants:
        centre *= voice.formant_shift if sound.voiced else 1.0
        gain += amplitude * np.exp(-(((hertz - centre) / width) ** 2) / 2)
    if sound.voiced:
        gain *= np.maximum(hertz / 500, 1) ** ((6.0 - manner.tilt) / 6.02)  # the formants hold the usual loss already
    return np.fft.irfft(spectrum * gain, size)[: len(source)]


def _fast(samples: int) -> int:
    """The next power of two: a Fourier transform of a prime length takes many times as long."""
    return 1 << (samples - 1).bit_length()


def background(samples: int, generator: np.random.Generator, colour: float) -> np.ndarray:
    """float32 [samples] of noise with peak 1; `colour` 0 is white, 1 pink, 2 brown."""
    size = _fast(samples)
    spectrum = np.fft.rfft(generator.normal(size=size))
    spectrum /= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50) ** (colour / 2)
    noise = np.fft.irfft(spectrum, size)[:samples]
    return (noise / np.abs(noise).max()).astype(np.float32)


def recorded(speech: np.ndarray, generator: np.random.Generator, samples: int | None = None) -> np.ndarray:
    """float32 [samples]: the speech somewhere in a clip of that length (default: with a short margin) with noise.

    How loud it is, and the noise, are random.
    """
    samples = samples or len(speech) + int(RATE * generator.uniform(0.1, 0.25))
    speech = speech[:samples]
    clip = background(samples, generator, colour=generator.uniform(0, 1)) * generator.uniform(0.01, 0.04)
    onset = int(generator.uniform(0, 1) * (samples - len(speech)))
    clip[onset : onset + len(speech)] += speech
    return clip * np.float32(generator.uniform(0.2, 0.9) / np.abs(clip).max())
