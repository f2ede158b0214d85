"""Sixteen instruments: factors -> partials, bands of noise and their envelopes.

Every method of synthesis used here can be written as a sum of partials, frequency modulation
included (its spectrum is known: Chowning 1973), and a sum of partials cannot alias.

Each instrument is a function `(start, factors, times) -> Voice`. `start` [NUM_PARTIALS] is uniform
in 0..1, for phases; `factors` are described in `families.FACTORS`; `times` [num_frames, 1] are the
seconds at which the envelopes are wanted, about a millisecond apart, so that all this costs little
next to the sound itself. Axes: [num_frames, num_partials], time first. What changes with time is a
column, what differs between partials is a row, and a product of the two is a whole sound.
"""

import jax.numpy as jnp
import numpy as np

from vaejax.data.voice import create_voice

LN_60_DB = 6.907755  # natural log of the amplitude ratio of 60 dB


def midi_to_hz(pitch):
    """Frequency in Hz of a MIDI note number; 69 is 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


# --- building blocks ------------------------------------------------------------------------


def decaying(times, seconds):
    """Exponential that falls by 60 dB in `seconds`; 1 up to time 0. Shapes broadcast."""
    return jnp.exp(-LN_60_DB * jnp.maximum(times, 0.0) / seconds)


def envelope(times, factors):
    """[num_frames, 1] decay towards the sustain, starting when the attack is over."""
    fall = decaying(times - factors["attack"], factors["decay"])
    return factors["sustain"] + (1.0 - factors["sustain"]) * fall


def lowpass(hz, cutoff, *, order=2, resonance=0.0):
    """Magnitude of a Butterworth low-pass (Butterworth 1930), with a bump at its corner.

    Args:
      hz: [1, num_partials] frequencies.
      cutoff: [] or [num_frames, 1] Hz at which the power is halved.
      order: 6 dB per octave each.
      resonance: height of the bump, linear; it is a third of an octave wide.
    Returns:
      [num_frames or 1, num_partials] linear gain.
    """
    relative = hz / cutoff
    bump = 1.0 + resonance * jnp.exp(-((jnp.log2(relative) / 0.33) ** 2))
    return bump / jnp.sqrt(1.0 + relative ** (2 * order))


def resonator(hz, centre, *, octaves=0.6, height=2.0):
    """[1, num_partials] gain of a fixed formant: 1 far away, 1 + height at its centre."""
    return 1.0 + height * jnp.exp(-((jnp.log2(hz / centre) / octaves) ** 2))


def unison(start, num_voices, num_harmonics, detune):
    """Harmonics of several voices spread evenly over `detune` cents.

    Within one voice the phases stay aligned (sine series), which keeps the shape of its wave. The
    inner voices are the louder ones, so that beats never reach silence.

    Args:
      start: [at least num_voices] 0..1, where each voice begins in its wave.
      num_voices: oscillators in unison.
      num_harmonics: of each.
      detune: cents from the lowest voice to the highest.
    Returns:
      ratio, phase (cycles), harmonic number, weight (linear amplitude of the voice): each
      [1, num_voices * num_harmonics].
    """
    shape = (num_voices, num_harmonics)
    number = jnp.broadcast_to(jnp.arange(1.0, num_harmonics + 1)[None], shape)
    place = np.linspace(-0.5, 0.5, num_voices) if num_voices > 1 else np.zeros(1)
    place = place[np.argsort(np.abs(place), kind="stable"), None]
    weight = jnp.broadcast_to(0.65 ** np.arange(num_voices)[:, None], shape)
    ratio = number * 2.0 ** (detune * place / 1200.0)
    # Less than a quarter of a cycle apart: voices that begin opposed and hardly differ in pitch
    # would weaken each other for the whole of the sound.
    phase = 0.25 * number * start[:num_voices, None] - 0.25
    return tuple(x.reshape(1, -1) for x in (ratio, phase, number, weight))


# --- sustained families -----------------------------------------------------------------------


def saw_to_square(number, shape):
    """Fourier series of a sawtooth (shape 0) turning into a square wave (shape 1)."""
    return jnp.where(number % 2 == 0, 1.0 - shape, 1.0) / number


def bass(start, f, times):
    """Subtractive: two oscillators, saw to square by `shape`, low-pass falling to its rest."""
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, weight = unison(start, 2, 64, f["detune"])
    opening = 1.0 + 2.0 * decaying(times - f["attack"], 0.6 * f["decay"])
    cutoff = hz * 2.0 ** (0.8 + 4.0 * f["brightness"]) * opening
    gain = weight * saw_to_square(number, f["shape"]) * lowpass(hz * ratio, cutoff, resonance=1.0)
    return create_voice(hz, ratio, phase, gain * envelope(times, f))


def lead(start, f, times):
    """Subtractive: two bright oscillators, saw to square by `shape`, with vibrato."""
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, weight = unison(start, 2, 64, f["detune"])
    closed = 3.0 * hz
    cutoff = closed * (14000.0 / closed) ** f["brightness"] * (0.7 + 0.6 * decaying(times, 0.8))
    gain = weight * saw_to_square(number, f["shape"]) * lowpass(hz * ratio, cutoff, resonance=1.5)
    return create_voice(hz, ratio, phase, gain * envelope(times, f))


def pad(start, f, times):
    """Subtractive: four voices in slow beats under a filter that opens with the attack.

    `shape` is how far the filter is closed when the sound begins.
    """
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, weight = unison(start, 4, 32, f["detune"])
    opening = 1.0 - 0.85 * f["shape"] * decaying(times, 4.0 * f["attack"])
    cutoff = hz * 2.0 ** (0.5 + 3.5 * f["brightness"]) * opening
    gain = weight * lowpass(hz * ratio, cutoff) / number * envelope(times, f)
    air = (2.0 * hz, 8.0 * hz, f["noise"] * envelope(times, f))
    return create_voice(hz, ratio, phase, gain, bands=[air])


def brass(start, f, times):
    """Additive: the louder, the brighter (Risset & Mathews 1969), under one formant.

    `shape` moves the formant from 500 Hz (horn) to 1500 Hz (trumpet).
    """
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, weight = unison(start, 2, 64, f["detune"])
    loudness = jnp.clip(times / (1.5 * f["attack"]), 0.05, 1.0) * envelope(times, f)
    cutoff = hz * (1.0 + 2.0 ** (1.0 + 3.2 * f["brightness"]) * loudness**1.5)
    gain = weight * lowpass(hz * ratio, cutoff) * number**-0.4
    gain = gain * resonator(hz * ratio, 500.0 * 3.0 ** f["shape"]) * loudness
    onset = 0.25 + 0.75 * decaying(times, 3.0 * f["attack"])
    breath = (500.0, 4000.0, f["noise"] * onset * envelope(times, f))
    return create_voice(hz, ratio, phase, gain, sweep_seconds=0.04, bands=[breath])


def strings(start, f, times):
    """Additive: three bowed players (Helmholtz motion is a sawtooth) and the bow's noise.

    `shape` moves the body's resonance from 300 Hz (cello) to 1200 Hz (violin).
    """
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, weight = unison(start, 3, 42, f["detune"])
    cutoff = hz * 2.0 ** (1.0 + 3.5 * f["brightness"])
    gain = weight * lowpass(hz * ratio, cutoff, order=1) / number
    gain = gain * resonator(hz * ratio, 300.0 * 4.0 ** f["shape"]) * envelope(times, f)
    bow = (1500.0, 7000.0, f["noise"] * envelope(times, f))
    return create_voice(hz, ratio, phase, gain, bands=[bow])


def organ(start, f, times):
    """Additive: the nine drawbars of a tonewheel organ, with a key click.

    Pitch is that of the 8-foot bar. `shape` pulls the two bars below and beside it, `brightness`
    the bars above.
    """
    hz = midi_to_hz(f["pitch"])
    ratio = jnp.array([[1.0, 0.5, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]])
    upper = f["brightness"] ** jnp.array([0.3, 0.5, 0.7, 1.2, 1.6, 2.0])
    bars = jnp.concatenate([jnp.ones(1), f["shape"] * jnp.array([0.7, 0.5]), upper])[None]
    # Tonewheels run freely: their phases have nothing to do with each other.
    phase = start[None, :9]
    click = (800.0, 6000.0, f["noise"] * decaying(times - f["attack"], 0.03))
    return create_voice(hz, ratio, phase, bars * envelope(times, f), bands=[click])


def flute(start, f, times):
    """Additive: few harmonics and breath. `shape` weakens the even ones (a stopped pipe)."""
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, _ = unison(start, 1, 16, 0.0)
    even = jnp.where(number % 2 == 0, 1.0 - 0.9 * f["shape"], 1.0)
    # Upper harmonics speak later than the first and come with loudness.
    speaking = jnp.clip(times / (f["attack"] * (0.7 + 0.15 * number)), 0.0, 1.0)
    gain = even * number ** -(3.2 - 2.0 * f["brightness"]) * speaking * envelope(times, f)
    chiff = 1.0 + 2.0 * decaying(times - 0.5 * f["attack"], 2.0 * f["attack"])
    breath = (0.9 * hz, 5.0 * hz, f["noise"] * chiff * envelope(times, f))
    return create_voice(hz, ratio, phase, gain, bands=[breath])


# --- plucked and struck families ----------------------------------------------------------------


def pluck(start, f, times):
    """Plucked string: high harmonics die first (Karplus & Strong 1983, Jaffe & Smith 1983).

    `shape` is where it is plucked, from the bridge (thin) to the middle (hollow): harmonic n is
    excited by sin(pi n position).
    """
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, weight = unison(start, 2, 64, f["detune"])
    position = 0.08 + 0.42 * f["shape"]
    level = weight * jnp.sin(jnp.pi * number * position) / number ** (1.9 - 1.1 * f["brightness"])
    seconds = f["decay"] / (1.0 + (0.12 - 0.09 * f["brightness"]) * (number - 1.0))
    gain = level * decaying(times - f["attack"], seconds)
    pick = (1000.0, 7000.0, f["noise"] * decaying(times, 0.04))
    return create_voice(hz, ratio, phase, gain, bands=[pick])


def keys(start, f, times):
    """Struck strings: stretched partials n sqrt(1 + b n^2) (Fletcher 1964), two-stage decay.

    `shape` is the stiffness b, from a soft electric piano (none) to a short upright.
    """
    hz = midi_to_hz(f["pitch"])
    detuned, phase, number, weight = unison(start, 2, 40, f["detune"])
    stiffness = 8e-4 * f["shape"] ** 2
    stretch = jnp.sqrt((1.0 + stiffness * number**2) / (1.0 + stiffness))
    # Struck at a ninth of the length; a harder hammer (bright) reaches higher harmonics.
    level = weight * jnp.sin(jnp.pi * number / 9.0) / number
    level = level * jnp.exp(-(number - 1.0) / (1.5 * 2.0 ** (3.5 * f["brightness"])))
    seconds = f["decay"] / (1.0 + 0.12 * (number - 1.0))
    since = times - f["attack"]
    # Weinreich 1977: coupled strings lose energy fast at first, then slowly.
    gain = level * (0.6 * decaying(since, 0.35 * seconds) + 0.4 * decaying(since, seconds))
    hammer = (200.0, 2500.0, f["noise"] * decaying(times, 0.08))
    return create_voice(hz, detuned * stretch, phase, gain, bands=[hammer])


def bell(start, f, times):
    """Frequency modulation with a falling index (Chowning 1973), as its line spectrum.

    sin(wc t + I sin(wm t)) = sum over n of J_n(I) sin((wc + n wm) t): the lines that would fold
    can then be left out. `shape` is the ratio wm / wc, from 1.2 to 3.6; `brightness` the index.
    """
    hz = midi_to_hz(f["pitch"])
    index = (0.5 + 5.5 * f["brightness"]) * decaying(times - f["attack"], 0.5 * f["decay"])
    # J_n(I) are the Fourier coefficients of exp(i I sin theta); 64 points are exact to float32
    # for the indices used here.
    theta = 2.0 * jnp.pi * jnp.arange(64)[None] / 64
    lines = jnp.fft.fft(jnp.exp(1j * index * jnp.sin(theta)), axis=1).real / 64
    order = jnp.fft.fftfreq(64, 1 / 64)[None]  # n = 0, 1, .. 31, -32, .. -1
    line = 1.0 + order * (1.2 + 2.4 * f["shape"])
    # Below 0 Hz a line comes back with the sign turned: sin(-wt) = -sin(wt).
    gain = jnp.sign(line) * lines * decaying(times - f["attack"], f["decay"])
    beat = 2.0 ** (f["detune"] / 2400.0)
    ratio = jnp.abs(jnp.concatenate([line / beat, line * beat], axis=1))
    return create_voice(hz, ratio, -0.25, jnp.concatenate([gain, 0.6 * gain], axis=1))


def mallet(start, f, times):
    """Struck bar: its transverse modes, tuned 1 : 4 : 10 (marimba) to 1 : 3 : 6 by `shape`.

    Fletcher & Rossing, The Physics of Musical Instruments, chapter 19. High modes die first.
    """
    hz = midi_to_hz(f["pitch"])
    marimba = jnp.array([[1.0, 3.99, 9.85, 16.7, 24.1]])
    xylophone = jnp.array([[1.0, 3.0, 6.1, 11.4, 17.2]])
    ratio = marimba ** (1.0 - f["shape"]) * xylophone ** f["shape"]
    order = jnp.arange(5.0)[None]
    level = jnp.exp(-order * (2.6 - 2.2 * f["brightness"]))
    gain = level * decaying(times - f["attack"], f["decay"] / (1.0 + 0.8 * order))
    knock = (300.0, 3000.0, f["noise"] * decaying(times, 0.05))
    return create_voice(hz, ratio, -0.25, gain, bands=[knock])


# --- drums ------------------------------------------------------------------------------------


def kick(start, f, times):
    """A sine that falls in pitch to its note; `brightness` adds overtones and a click.

    `shape` is the time the fall takes, 10 to 50 ms.
    """
    hz = midi_to_hz(f["pitch"])
    ratio, phase, number, _ = unison(jnp.zeros(1), 1, 7, 0.0)
    drive = 0.75 * f["brightness"]
    level = jnp.where(number % 2 == 0, 0.3, 1.0) * drive ** (number - 1.0)
    gain = level * decaying(times - f["attack"], f["decay"] / number**0.7)
    beater = f["noise"] * decaying(times - f["attack"], 0.03)
    click = (500.0, 1500.0 * 2.0 ** (2.5 * f["brightness"]), beater)
    seconds = 0.01 * 5.0 ** f["shape"]
    return create_voice(hz, ratio, phase, gain, sweep_seconds=seconds, bands=[click])


def snare(start, f, times):
    """Four modes of the drum head and the noise of the wires; `shape` tunes the head."""
    hz = 150.0 * 2.0 ** f["shape"]
    ratio = jnp.array([[1.0, 1.59, 1.83, 2.3]])
    level = jnp.array([[1.0, 0.7, 0.4, 0.3]])
    head = decaying(times - f["attack"], 0.6 * f["decay"] / ratio)
    wires = f["noise"] * decaying(times - f["attack"], f["decay"])
    stick = 0.7 * f["noise"] * decaying(times - f["attack"], 0.04)
    high = 2500.0 * 2.0 ** (2.3 * f["brightness"])
    bands = [(700.0 + 0.15 * high, high, wires), (400.0, high, stick)]
    return create_voice(hz, ratio, -0.25, level * head, sweep_seconds=0.02, bands=bands)


def hat(start, f, times):
    """Six square waves that share no harmonic, high-passed, and noise, as in the TR-808.

    `shape` scales the six frequencies; a long decay is an open hat.
    """
    squares = jnp.array([[205.3, 304.4, 369.6, 522.7, 540.0, 800.0]]) * (0.8 + 0.6 * f["shape"])
    number = jnp.arange(1.0, 42.0, 2.0)[None]
    hz = (squares.T * number).reshape(1, -1)
    corner = 3500.0 * 2.0 ** (1.3 * f["brightness"])
    highpass = (hz / corner) ** 4 / (1.0 + (hz / corner) ** 4)
    level = jnp.tile(1.0 / number, (1, 6)) * highpass
    fall = decaying(times - f["attack"], f["decay"])
    phase = start[None, : hz.size]
    sizzle = (1.4 * corner, 16000.0, f["noise"] * fall)
    return create_voice(1000.0, hz / 1000.0, phase, level * fall, bands=[sizzle])


def tom(start, f, times):
    """Modes of a circular membrane (Fletcher & Rossing, chapter 18) with a small fall in pitch.

    `shape` is how long the upper modes ring.
    """
    hz = midi_to_hz(f["pitch"])
    ratio = jnp.array([[1.0, 1.59, 2.14, 2.30, 2.65, 2.92, 3.16, 3.5]])
    level = jnp.exp(-jnp.arange(8.0)[None] * (1.3 - 1.0 * f["brightness"]))
    seconds = f["decay"] * ratio ** -(2.0 - 1.2 * f["shape"])
    gain = level * decaying(times - f["attack"], seconds)
    skin = f["noise"] * decaying(times - f["attack"], 0.08)
    slap = (200.0, 1000.0 * 2.0 ** (2.0 * f["brightness"]), skin)
    return create_voice(hz, ratio, -0.25, gain, sweep_seconds=0.06, bands=[slap])


def clap(start, f, times):
    """Noise in three quick bursts and a tail, as in the TR-808; `shape` is their spacing."""
    spacing = 0.007 + 0.008 * f["shape"]
    since = times - f["attack"]
    bursts = jnp.where(since < 3.0 * spacing, decaying(since % spacing, 1.5 * spacing), 0.0)
    tail = 0.7 * decaying(since - 3.0 * spacing, f["decay"]) * (since >= 3.0 * spacing)
    centre = 800.0 * 2.0 ** (1.6 * f["brightness"])
    bands = [
        (0.7 * centre, 2.0 * centre, f["noise"] * bursts),
        (0.8 * centre, 1.5 * centre, f["noise"] * tail),
    ]
    return create_voice(1000.0, jnp.ones((1, 1)), 0.0, jnp.zeros_like(times), bands=bands)
