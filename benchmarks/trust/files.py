"""Damaged sound files, through the decoder that training uses, in a process that is watched."""

import functools
import io
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.trust import program
from benchmarks.trust.cases import Cases

# Files that one process decodes; the next takes what one left, if it does not come back.
BATCH = 200
SECONDS = 120.0
# Of addresses: what a file of some kilobytes may make the decoder ask for.
MEMORY = 2 << 30

WATCHED = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from vaejax.data.corpus import load_folder
corpus = load_folder(
    sys.argv[1], sample_rate=8000, pack_samples=2000, trim_db=-60.0, cache_dir=sys.argv[2],
    num_workers=1, progress=False,
)
peaks = [int(abs(clip.astype(int)).max()) for clip in corpus.clips]
print(json.dumps({{
    "used": corpus.names, "rejected": corpus.rejected, "peaks": peaks,
    "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}}))
"""


@functools.cache
def originals() -> dict[str, bytes]:
    """A file of every format and sample type that libsndfile writes: name -> content."""
    rng = np.random.default_rng(0)
    t = np.arange(2400) / 8000
    tone = 0.6 * np.exp(-6 * t) * np.sin(2 * np.pi * 220 * t) + 0.01 * rng.standard_normal(len(t))
    made = {}
    for form in sorted(set(soundfile.available_formats()) - {"SD2"}):  # has a second file, `._name`
        for subtype in soundfile.available_subtypes(form):
            for channels in (1, 2):
                samples = tone if channels == 1 else np.stack([tone, 0.5 * tone], 1)
                content = io.BytesIO()
                rate = 48_000 if subtype == "OPUS" else 8000
                try:
                    soundfile.write(content, samples, rate, format=form, subtype=subtype)
                except (soundfile.LibsndfileError, ValueError, TypeError):
                    continue  # not of so many channels
                if content.tell() > 200:
                    made[f"{form}-{subtype}-{channels}".lower()] = content.getvalue()
    return made


def damaged(content: bytes, others: list[bytes], draw: random.Random) -> tuple[str, bytes]:
    """A way of damage and what comes of it."""
    data = bytearray(content)
    head = min(len(data), 96)
    where = draw.randrange(len(data))
    size = draw.choice((1, 4, 16, 256, 2048))
    way = draw.choice(
        ("bits", "header bits", "size", "cut", "hole", "zeros", "noise", "repeat", "splice", "name")
    )
    if way == "bits":
        for _ in range(draw.choice((1, 8, 64))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif way == "header bits":
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(head)] ^= 1 << draw.randrange(8)
    elif way == "size":
        extreme = draw.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), 2 * len(data)))
        at = draw.randrange(0, max(4, head - 4), 2)
        data[at : at + 4] = extreme.to_bytes(4, draw.choice(("little", "big")))
    elif way == "cut":
        del data[where:]
    elif way == "hole":
        del data[where : where + size]
    elif way == "zeros":
        data[where : where + size] = bytes(len(data[where : where + size]))
    elif way == "noise":
        data[where : where + size] = draw.randbytes(len(data[where : where + size]))
    elif way == "repeat":
        data[where:where] = data[where : where + size] * draw.choice((1, 3, 50))
    elif way == "splice":
        other = draw.choice(others)
        data[where:] = other[draw.randrange(len(other)) :]
    return way, bytes(data)


SUFFIXES = ("wav", "flac", "aiff", "ogg", "mp3", "au", "caf", "w64", "rf64", "opus", "voc", "xi")


def write_batch(folder: Path, start: int, num: int, seed: int) -> list[str]:
    """Writes damaged files `start` to `start + num`; their names."""
    kinds = originals()
    names = sorted(kinds)
    contents = [kinds[name] for name in names]
    written = []
    for index in range(start, start + num):
        draw = random.Random(f"{seed}/{index}")
        kind = names[index % len(names)]
        way, content = damaged(kinds[kind], contents, draw)
        usual = next((s for s in SUFFIXES if kind.startswith(s)), "wav")
        # Some go under the name of another format.
        suffix = draw.choice(SUFFIXES) if way == "name" else usual
        name = f"{index:06d}-{kind}-{way.replace(' ', '-')}.{suffix}"
        (folder / name).write_bytes(content)
        written.append(name)
    return written


def decode(folder: Path, home: Path) -> tuple[dict[str, Any] | None, str]:
    """What the watched process says of a folder, or None and how it ended."""
    shutil.rmtree(home / "cache", ignore_errors=True)
    argv = [sys.executable, "-c", WATCHED, str(folder), str(home / "cache")]
    try:
        done = subprocess.run(
            argv, cwd=program.ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"not done after {SECONDS:g} s"
    if done.returncode:
        return None, f"exit code {done.returncode}: {done.stderr[-1500:]}"
    *before, last = done.stdout.splitlines()
    noise = "\n".join([*before, done.stderr]).strip()
    return json.loads(last), f"on the terminal: {noise[-500:]}" if noise else ""


def files(home: Path, cases: Cases, num: int) -> None:
    """Decodes `num` damaged files; each is used or rejected with a reason of one line."""
    part = "files"
    while (start := cases.count(part)) < num and cases.goes_on():
        folder = program.fresh(home) / "sounds"
        folder.mkdir()
        names = write_batch(folder, start, min(BATCH, num - start), cases.seed)
        result, said = decode(folder, home)
        if result is None:
            trouble = [f"{name}: {how}" for name, how in _guilty(folder, names, home)]
            cases.add(part, len(names), trouble or [f"all of {start}+: {said}"])
            continue
        reasons = {row["file"]: row["reason"] for row in result["rejected"]}
        trouble = [said] if said else []
        trouble += [
            f"{n}: neither used nor rejected"
            for n in names
            if n not in reasons and n not in result["used"]
        ]
        trouble += [f"{n}: reason {r!r}" for n, r in reasons.items() if not r or "\n" in r]
        trouble += [
            f"{name}: peak {peak}"
            for name, peak in zip(result["used"], result["peaks"], strict=True)
            if peak != 32767
        ]
        cases.add(
            part,
            len(names),
            trouble,
            used=len(result["used"]),
            reasons=sorted({re.sub(r"\d[\d,.]*", "N", reason) for reason in reasons.values()}),
            memory_mb=round(result["memory_mb"]),
        )


def _guilty(folder: Path, names: list[str], home: Path) -> list[tuple[str, str]]:
    """Those of a folder's files that end the process by themselves too, kept in `guilty`."""
    some = home / "some"
    shutil.rmtree(some, ignore_errors=True)
    some.mkdir(parents=True)
    for name in names:
        shutil.copy(folder / name, some)
    result, how = decode(some, home)
    if result is not None:
        return []
    if len(names) > 1:
        half = len(names) // 2
        return _guilty(folder, names[:half], home) + _guilty(folder, names[half:], home)
    kept = home.parent / "guilty"
    kept.mkdir(exist_ok=True)
    shutil.copy(folder / names[0], kept)
    return [(names[0], how)]
