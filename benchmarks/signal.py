"""STFT pair and phase recovery beside librosa, PyTorch, SciPy and jax.scipy; draws the figure.

    pip install -e ".[bench]"
    python -m benchmarks.signal [--data tests/notes]

Each peer shares a process with vaejax and the two take turns, so that both meet the same machine.
Peers that are not installed are left out and named. Where JAX has an accelerator, it is used, and
by PyTorch too if it sees one.
"""

import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import record

PEERS = ("torch", "librosa", "scipy", "jax.scipy")
SIZES: dict[str, Any] = {"n_fft": 2048, "hop_length": 512}
SAMPLE_RATE = 44_100
OVERLAPS = (2, 4, 8)
ITERATIONS = (0, 1, 2, 4, 8, 16, 32)
# The start of each line of the figure.
STARTS = ("pghi", "pghi without look-ahead", "spsi", "peaks", "derivative", "random", "zero")
TARGETS_DB = (-20.0, -25.0)
# Of the peers' own Griffin-Lim, from random phase with momentum 0.99.
PEER_ITERATIONS = (8, 32)


@dataclass(frozen=True)
class Options:
    data: Path = Path("tests/notes")
    """Folder of sounds at 44.1 kHz whose magnitudes are inverted; their first second is used."""
    notes: int = 24
    """At most this many of them, evenly spaced over the sorted folder."""
    clips: int = 64
    """Clips of one second in the STFT measurements."""
    repeats: int = 15
    figure: Path = Path("docs/phase-recovery.png")
    part: str = "all"
    """"all", or one that "all" runs in a process of its own: "phase" or a peer's name."""
    out: Path | None = None
    """Where a part leaves its figures."""


def take_turns(tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each task by the clock and by the processor, after a first call."""
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            started, worked = time.perf_counter(), time.process_time()
            task()
            wall[name].append(1e3 * (time.perf_counter() - started))
            cpu[name].append(1e3 * (time.process_time() - worked))
    return {
        name: {"ms": statistics.median(wall[name]), "cpu_ms": statistics.median(cpu[name])}
        for name in tasks
    }


def waiting(program: Callable[..., Any], *arguments) -> Callable[[], Any]:
    """A call of a JAX program that returns when its result is there."""
    import jax

    return lambda: jax.block_until_ready(program(*arguments))


def floor() -> dict[str, float]:
    """What the machine does at best: copied bytes and real FFTs of 2048 per second."""
    import jax
    import jax.numpy as jnp

    n_fft = SIZES["n_fft"]
    copy, transform = jax.jit(lambda x: x + 1), jax.jit(jnp.fft.rfft)
    long, frames = jnp.zeros(1 << 26), jnp.ones((512, n_fft))
    tasks = {
        "copy": waiting(copy, long),
        "fft": waiting(transform, frames),
    }
    ms = {name: figures["ms"] for name, figures in take_turns(tasks, 15).items()}
    return {
        "copy_gb_per_second": 2 * long.nbytes / ms["copy"] / 1e6,
        "fft_gflop_per_second": 512 * fft_flops(n_fft) / ms["fft"] / 1e6,
    }


def fft_flops(size: int) -> float:
    """Operations of a real FFT by the usual count, half of 5 n log2(n)."""
    return 2.5 * size * math.log2(size)


def stft_floor_ms(machine: dict[str, float], num_clips: int) -> dict[str, float]:
    """Bytes that must move and operations that must be done for an STFT of `num_clips` clips."""
    frames = 1 + SAMPLE_RATE // SIZES["hop_length"]
    moved = num_clips * (4 * SAMPLE_RATE + 8 * frames * (SIZES["n_fft"] // 2 + 1))
    flops = num_clips * frames * fft_flops(SIZES["n_fft"])
    by_bytes = moved / machine["copy_gb_per_second"] / 1e6
    by_flops = flops / machine["fft_gflop_per_second"] / 1e6
    return {
        "megabytes": moved / 1e6,
        "megaflop": flops / 1e6,
        "ms": max(by_bytes, by_flops),
        "ms_by_bytes": by_bytes,
        "ms_by_operations": by_flops,
    }


def recovery_floor_ms(machine: dict[str, float], overlap: int, num_iters: int) -> float:
    """Milliseconds of one clip's FFTs: one inverse, and a pair per iteration; all else is free."""
    n_fft = SIZES["n_fft"]
    frames = 1 + SAMPLE_RATE // (n_fft // overlap)
    flops = (1 + 2 * num_iters) * frames * fft_flops(n_fft)
    return flops / machine["fft_gflop_per_second"] / 1e6


def load_notes(options: Options) -> np.ndarray:
    """The first second of each note, `[num, 44100]`."""
    import soundfile

    files = sorted(p for p in options.data.rglob("*") if p.suffix.lower() in (".flac", ".wav"))
    assert files, f"no FLAC or WAV below {options.data}; pass --data FOLDER"
    picked = [
        files[i] for i in np.unique(np.linspace(0, len(files) - 1, options.notes).astype(int))
    ]
    clips = []
    for path in picked:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == SAMPLE_RATE, f"{path} is at {rate} Hz, expected {SAMPLE_RATE}"
        mono = samples.mean(axis=1)[:SAMPLE_RATE]
        clips.append(np.pad(mono, (0, SAMPLE_RATE - len(mono))))
    return np.stack(clips)


def ours(clips: np.ndarray) -> dict[str, Callable[[], Any]]:
    """vaejax's STFT pair over a batch: vectorised, and on CPU also clip after clip."""
    import jax
    import jax.numpy as jnp

    from vaejax.signal.stft import istft, stft

    def forward(clip):
        return stft(clip, **SIZES)

    def inverse(spectrum):
        return istft(spectrum, length=SAMPLE_RATE, **SIZES)

    batch = jnp.asarray(clips)
    tasks: dict[str, Callable[[], Any]] = {}
    spectra = jax.jit(jax.vmap(forward))(batch)
    for name, function, given in (("stft", forward, batch), ("istft", inverse, spectra)):
        tasks[f"vaejax {name}"] = waiting(jax.jit(jax.vmap(function)), given)
        if jax.default_backend() == "cpu":
            one_by_one = jax.jit(partial(jax.lax.map, function))
            tasks[f"vaejax {name}, lax.map"] = waiting(one_by_one, given)
    return tasks


def torch_pair(clips: np.ndarray) -> dict[str, Callable[[], Any]]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = torch.from_numpy(clips).to(device)
    window = torch.hann_window(SIZES["n_fft"], device=device)

    def forward():
        got = torch.stft(batch, SIZES["n_fft"], SIZES["hop_length"], window=window,
                         pad_mode="constant", return_complex=True)  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        return got

    spectra = forward()

    def inverse():
        got = torch.istft(spectra, SIZES["n_fft"], SIZES["hop_length"], window=window,
                          length=SAMPLE_RATE)  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        return got

    return {"torch stft": forward, "torch istft": inverse}


def librosa_pair(clips: np.ndarray) -> dict[str, Callable[[], Any]]:
    import librosa

    spectra = librosa.stft(clips, **SIZES, pad_mode="constant")
    return {
        "librosa stft": lambda: librosa.stft(clips, **SIZES, pad_mode="constant"),
        "librosa istft": lambda: librosa.istft(
            spectra, hop_length=SIZES["hop_length"], length=SAMPLE_RATE
        ),
    }


def scipy_pair(clips: np.ndarray) -> dict[str, Callable[[], Any]]:
    import scipy.signal

    window = scipy.signal.get_window("hann", SIZES["n_fft"]).astype(np.float32)
    transform = scipy.signal.ShortTimeFFT(window, SIZES["hop_length"], fs=1)
    spectra = transform.stft(clips)
    return {
        "scipy stft": lambda: transform.stft(clips),
        "scipy istft": lambda: transform.istft(spectra, k1=SAMPLE_RATE),
    }


def jax_scipy_pair(clips: np.ndarray) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    options = {"nperseg": SIZES["n_fft"], "noverlap": SIZES["n_fft"] - SIZES["hop_length"]}
    forward = jax.jit(lambda x: jax.scipy.signal.stft(x, **options)[2])
    inverse = jax.jit(lambda x: jax.scipy.signal.istft(x, **options)[1])
    batch = jnp.asarray(clips)
    spectra = forward(batch)
    return {
        "jax.scipy stft": waiting(forward, batch),
        "jax.scipy istft": waiting(inverse, spectra),
    }


PAIRS = {
    "torch": torch_pair,
    "librosa": librosa_pair,
    "scipy": scipy_pair,
    "jax.scipy": jax_scipy_pair,
}


def measure_peer(peer: str, options: Options) -> dict[str, Any]:
    """A peer's STFT pair, and its Griffin-Lim if it has one, in turns with vaejax's."""
    clips = np.random.default_rng(0).standard_normal((options.clips, SAMPLE_RATE), np.float32)
    figures: dict[str, Any] = take_turns({**ours(clips), **PAIRS[peer](clips)}, options.repeats)
    for name in ("stft", "istft"):
        own = figures[f"vaejax {name}"]
        figures[f"vaejax {name}"]["times_faster"] = figures[f"{peer} {name}"]["ms"] / own["ms"]
    if peer in ("torch", "librosa"):
        figures["griffin_lim"] = measure_griffin_lim(peer, options)
    return figures


def measure_griffin_lim(peer: str, options: Options) -> dict[str, Any]:
    """The same fast Griffin-Lim by a peer and by vaejax, of recorded notes from random phase."""
    import jax

    from vaejax.signal import phase

    notes = load_notes(options)
    magnitudes, reached = recovery_of(notes, SIZES["hop_length"])
    figures: dict[str, Any] = {}
    for num_iters in PEER_ITERATIONS:

        def one(key, magnitude, num_iters=num_iters):
            return phase.griffin_lim(
                key, magnitude, num_iters=num_iters, relaxation=1.0, length=SAMPLE_RATE, **SIZES
            )

        keys = jax.random.split(jax.random.key(0), len(notes))
        theirs = torch_griffin_lim if peer == "torch" else librosa_griffin_lim
        tasks = {
            "vaejax": waiting(jax.jit(jax.vmap(one)), keys, magnitudes),
            peer: theirs(np.asarray(magnitudes), num_iters),
        }
        times = take_turns(tasks, max(options.repeats // 4, 1))
        for name, task in tasks.items():
            figures.setdefault(name, []).append(
                {
                    "num_iters": num_iters,
                    "ms_per_clip": times[name]["ms"] / len(notes),
                    "cpu_ms_per_clip": times[name]["cpu_ms"] / len(notes),
                    "db": float(np.mean(reached(np.asarray(task())))),
                }
            )
    return figures


def torch_griffin_lim(magnitudes: np.ndarray, num_iters: int) -> Callable[[], np.ndarray]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    target = torch.from_numpy(magnitudes.transpose(0, 2, 1).copy()).to(device)
    window = torch.hann_window(SIZES["n_fft"], device=device)
    sizes = (SIZES["n_fft"], SIZES["hop_length"])

    def run() -> np.ndarray:
        generator = torch.Generator(device).manual_seed(0)
        angle = 2 * math.pi * torch.rand(target.shape, generator=generator, device=device)
        spectra = torch.polar(target, angle)
        previous = torch.zeros_like(spectra)
        for _ in range(num_iters):
            clips = torch.istft(spectra, *sizes, window=window, length=SAMPLE_RATE)
            rebuilt = torch.stft(
                clips, *sizes, window=window, pad_mode="constant", return_complex=True
            )
            ahead = rebuilt - (0.99 / 1.99) * previous
            previous = rebuilt
            spectra = target * ahead / (ahead.abs() + 1e-16)
        return torch.istft(spectra, *sizes, window=window, length=SAMPLE_RATE).cpu().numpy()

    return run


def librosa_griffin_lim(magnitudes: np.ndarray, num_iters: int) -> Callable[[], np.ndarray]:
    import librosa

    return lambda: librosa.griffinlim(
        magnitudes.transpose(0, 2, 1), n_iter=num_iters, hop_length=SIZES["hop_length"],
        length=SAMPLE_RATE, pad_mode="constant", random_state=0,
    )  # fmt: skip


def recovery_of(notes: np.ndarray, hop_length: int):
    """Magnitudes of notes, and the function that says how many dB waveforms are from them."""
    import jax
    import jax.numpy as jnp

    from vaejax.signal import phase, spectrum
    from vaejax.signal.stft import stft

    sizes = {"n_fft": SIZES["n_fft"], "hop_length": hop_length}
    magnitudes = jax.jit(jax.vmap(lambda x: spectrum.magnitude(stft(x, **sizes))))(
        jnp.asarray(notes)
    )
    measure = jax.jit(jax.vmap(lambda x, m: phase.spectral_convergence_db(x, m, **sizes)))
    return magnitudes, lambda waveforms: measure(jnp.asarray(waveforms), magnitudes)


def measure_recovery(options: Options) -> dict[str, Any]:
    """dB and milliseconds per clip of every start, number of iterations and overlap."""
    notes = load_notes(options)
    found = {o: measure_overlap(notes, o, max(options.repeats // 2, 1)) for o in OVERLAPS}
    return {
        "notes": len(notes),
        "curves": {name: {o: found[o][0][name] for o in OVERLAPS} for name in STARTS},
        "automatic": {o: found[o][1] for o in OVERLAPS},
    }


def measure_overlap(notes: np.ndarray, overlap: int, repeats: int):
    """What `measure_recovery` says of one overlap: curves by start, and the automatic choices."""
    import jax

    from vaejax.signal import phase, phase_start

    hop_length = SIZES["n_fft"] // overlap
    sizes: dict[str, Any] = {"n_fft": SIZES["n_fft"], "hop_length": hop_length}
    starts: dict[str, Callable[..., Any]] = {
        "pghi": phase_start.pghi_phase,
        "pghi without look-ahead": partial(phase_start.pghi_phase, look_ahead=0),
        "spsi": phase_start.spsi_phase,
        "peaks": phase_start.peak_phase,
        "derivative": phase_start.derivative_phase,
        "random": phase.random_phase,
        "zero": phase_start.zero_phase,
    }
    magnitudes, reached = recovery_of(notes, hop_length)

    def refined(magnitude, init, num_iters):
        return phase.griffin_lim(
            None, magnitude, init=init, num_iters=num_iters, length=SAMPLE_RATE, **sizes
        )

    def recovered(magnitude, target_db):
        return phase.recover(magnitude, target_db=target_db, length=SAMPLE_RATE, **sizes)

    begin = {name: jax.jit(jax.vmap(partial(starts[name], **sizes))) for name in STARTS}
    finish = {n: jax.jit(jax.vmap(partial(refined, num_iters=n))) for n in ITERATIONS}
    recover = {t: jax.jit(jax.vmap(partial(recovered, target_db=t))) for t in TARGETS_DB}
    inits = {name: begin[name](magnitudes) for name in STARTS}
    # Iterations cost the same from every start: timed once, from the first.
    tasks: dict[str, Callable[[], Any]] = {}
    for name in STARTS:
        tasks[name] = waiting(begin[name], magnitudes)
    for n in ITERATIONS:
        tasks[str(n)] = waiting(finish[n], magnitudes, inits[STARTS[0]])
    for target in TARGETS_DB:
        tasks[str(target)] = waiting(recover[target], magnitudes)
    times = take_turns(tasks, repeats)

    def per_clip(*names) -> dict[str, float]:
        return {
            f"{kind}_per_clip": sum(times[str(name)][kind] for name in names) / len(notes)
            for kind in ("ms", "cpu_ms")
        }

    curves = {
        name: [
            {
                "num_iters": n,
                **per_clip(name, n),
                "db": float(np.mean(reached(finish[n](magnitudes, inits[name])))),
            }
            for n in ITERATIONS
        ]
        for name in STARTS
    }
    automatic = [
        {
            "target_db": target,
            "num_iters": phase.choose(**sizes, target_db=target)[1],
            **per_clip(target),
            "audio_seconds_per_second": 1e3 / per_clip(target)["ms_per_clip"],
            "db": float(np.mean(reached(recover[target](magnitudes)))),
        }
        for target in TARGETS_DB
    ]
    return curves, automatic


def draw(figures: dict[str, Any], path: Path) -> None:
    """Convergence against time: a panel per overlap, a line per start, a dot per iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    fig: Any
    panels: Any
    fig, panels = pyplot.subplots(1, len(OVERLAPS), figsize=(15, 5.6), sharey=True)
    colours = {name: f"C{i}" for i, name in enumerate(STARTS)}
    for panel, overlap in zip(panels, OVERLAPS, strict=True):
        for name in STARTS:
            points = figures["recovery"]["curves"][name][str(overlap)]
            times, levels = ([p[key] for p in points] for key in ("ms_per_clip", "db"))
            panel.plot(times, levels, "o-", ms=4, lw=1.6, color=colours[name], label=name)
            if name in ("pghi", "random"):
                for point in points:
                    panel.annotate(
                        str(point["num_iters"]), (point["ms_per_clip"], point["db"]), fontsize=7,
                        textcoords="offset points", xytext=(4, -9), color=colours[name],
                    )  # fmt: skip
        if overlap == SIZES["n_fft"] // SIZES["hop_length"]:
            for peer, style in (("torch", "ks--"), ("librosa", "k^:")):
                points = figures["peers"].get(peer, {}).get("griffin_lim", {}).get(peer)
                if points:
                    times, levels = ([p[key] for p in points] for key in ("ms_per_clip", "db"))
                    panel.plot(times, levels, style, ms=5, lw=1, label=f"{peer}, random phase")
        for target in TARGETS_DB:
            panel.axhline(target, color="0.6", lw=0.8, ls=":")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.set_xlabel("milliseconds per clip of one second")
        panel.set_title(f"hop = n_fft / {overlap}")
        panel.grid(alpha=0.25, which="both")
    panels[0].set_ylabel("spectral convergence in dB (lower is better)")
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig.legend(list(handles.values()), list(handles), ncols=5, loc="lower center", frameon=False)
    machine = figures["hardware_name"]
    fig.suptitle(
        f"Phase recovery of {figures['recovery']['notes']} recorded notes (n_fft 2048, 44.1 kHz) "
        f"on {machine}; numbers are iterations"
    )
    fig.tight_layout(rect=(0, 0.1, 1, 1))
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path, dpi=110)
    print(f"wrote {path}")


def run_part(part: str, options: Options, folder: Path) -> dict[str, Any]:
    out = folder / f"{part}.json"
    subprocess.run(
        [
            sys.executable, "-m", "benchmarks.signal", "--part", part, "--out", str(out),
            "--data", str(options.data), "--notes", str(options.notes),
            "--clips", str(options.clips), "--repeats", str(options.repeats),
        ],
        check=True,
    )  # fmt: skip
    return json.loads(out.read_text())


def shortened(value):
    """The same figures with four significant digits."""
    if isinstance(value, dict):
        return {str(key): shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(options: Options) -> None:
    if options.part != "all":
        assert options.out is not None, "--part needs --out"
        if options.part == "phase":
            found = {"machine": floor(), "recovery": measure_recovery(options)}
        else:
            found = measure_peer(options.part, options)
        options.out.write_text(json.dumps(found))
        return
    peers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for peer in PEERS:
            package = peer.split(".")[0]
            if importlib.util.find_spec(package) is None:
                peers[peer] = {"missing": f'pip install -e ".[bench]" brings {package}'}
                continue
            peers[peer] = {"version": metadata.version(package), **run_part(peer, options, folder)}
        own = run_part("phase", options, folder)
    machine = own["machine"]
    stft_floor = stft_floor_ms(machine, options.clips)
    measured = [peers[p]["vaejax stft"]["ms"] for p in PEERS if "vaejax stft" in peers[p]]
    if measured:
        stft_floor["vaejax_stft_over_floor"] = statistics.median(measured) / stft_floor["ms"]
    for overlap, rows in own["recovery"]["automatic"].items():
        for row in rows:
            row["floor_ms"] = recovery_floor_ms(machine, int(overlap), row["num_iters"])
            row["over_floor"] = row["ms_per_clip"] / row["floor_ms"]
    hardware = record.hardware()
    figures = shortened(
        {
            "data": options.data.name,
            "clips": options.clips,
            "repeats": options.repeats,
            "machine": machine,
            "stft_floor": stft_floor,
            "peers": peers,
            "recovery": own["recovery"],
        }
    )
    cores = f", {hardware['cores']} cores" if hardware["platform"] == "cpu" else ""
    draw({**figures, "hardware_name": hardware["device"].split(" (")[0] + cores}, options.figure)
    record.save("signal", figures)


if __name__ == "__main__":
    main(tyro.cli(Options))
