"""The contact sheet in Chromium: time to open, memory, latencies; and what it costs to write.

    python -m benchmarks.sheet --workdir runs/default

Needs Selenium (`pip install .[bench]`), Chromium and chromedriver. Sounds are made with sample.py
into a temporary folder, or taken from --folder. Opening counts from the start of the navigation
until the first tiles show their pictures and the page takes clicks.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "mute-audio",
    "autoplay-policy=no-user-gesture-required",
    "window-size=1500,900",
)
# What a user does, as the page's own script: each ends when the new tiles are laid out.
ACTIONS = {
    "sort by a number": "$('sort').value = numeric.at(-1); choose()",
    "sort by name": "$('sort').value = 'file'; choose()",
    "filter by a word": "$('search').value = '77'; choose()",
    "show all": "$('search').value = ''; $('sort').value = 'index'; choose()",
    "draw the map": "drawMapNow()",
}


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/default")
    """A trained run, to make the sounds with."""
    folder: Path | None = None
    """A folder of sample.py to open instead."""
    num: int = 10_000
    """Sounds on the sheet, all on one page up to 10,000."""
    repeats: int = 5
    """Browsers started and pages opened, for medians."""
    write: int = 100_000
    """Sounds of the measurement of writing alone; 0 leaves it out."""


def open_browser(profile: str) -> Any:
    from selenium import webdriver

    names = ("chromium", "chromium-browser", "google-chrome")
    binary, service = next(filter(None, map(shutil.which, names)), None), "chromedriver"
    driver = shutil.which(service)
    if not (binary and driver):
        raise SystemExit("needs Chromium and chromedriver in the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def memory_mb(driver: Any) -> dict[str, float]:
    """Memory of the page's process and of the whole browser that no other process shares."""
    import psutil

    service = psutil.Process(driver.service.process.pid)
    used: dict[int, tuple[bool, float]] = {}
    for process in service.children(recursive=True):
        try:
            renders = "--type=renderer" in process.cmdline()
            used[process.pid] = (renders, process.memory_full_info().uss / 2**20)
        except psutil.Error:
            continue
    # The browser holds spare renderers; the page is in the largest.
    return {
        "page": round(max(uss for renders, uss in used.values() if renders), 1),
        "browser": round(sum(uss for _, uss in used.values()), 1),
    }


def wait(driver: Any, name: str) -> float:
    """Milliseconds of the page's clock at which the page said so."""
    end = time.monotonic() + 120
    while not (value := driver.execute_script(f"return document.documentElement.dataset.{name}")):
        assert time.monotonic() < end, f"the page is not {name} after two minutes"
        time.sleep(0.02)
    return float(value)


def measure(page: Path, repeats: int) -> dict[str, Any]:
    """Opens the page in fresh browsers; in the last one also scrolls, sorts and filters."""
    opened, ready, memory = [], [], []
    for i in range(repeats):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            driver = open_browser(profile)
            try:
                driver.get("about:blank")
                driver.get(page.as_uri())
                opened.append(wait(driver, "painted") / 1000)
                ready.append(wait(driver, "ready") / 1000)
                memory.append(memory_mb(driver))
                if i == repeats - 1:
                    rest = use(driver)
            finally:
                driver.quit()
    return {
        "open_seconds": round(statistics.median(opened), 3),
        "open_seconds_all": [round(t, 3) for t in opened],
        "clickable_seconds": round(statistics.median(ready), 3),
        "page_mb": statistics.median(m["page"] for m in memory),
        "browser_mb": statistics.median(m["browser"] for m in memory),
        **rest,
    }


def use(driver: Any) -> dict[str, Any]:
    """Latencies of a page that is open, and its memory once every picture was seen."""
    milliseconds = {}
    for name, action in ACTIONS.items():
        times = [
            driver.execute_script(
                f"const start = performance.now(); {action}; field.offsetHeight;"
                "return performance.now() - start"
            )
            for _ in range(5)
        ]
        milliseconds[name] = round(statistics.median(times), 1)
    # From top to bottom, two screens at a time: the time from frame to frame, each with nothing but
    # new tiles. At the end all pictures are unpacked.
    driver.set_script_timeout(300)
    frames = driver.execute_async_script(
        "const done = arguments[0], frames = []; let before = performance.now();"
        "function step(now) { frames.push(now - before); before = now;"
        "  if (scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 1)"
        "    Promise.all([...tiles.values()].map((tile) => tile.painted)).then(() => done(frames));"
        "  else { scroller.scrollTop += 2 * scroller.clientHeight; requestAnimationFrame(step); } }"
        "requestAnimationFrame(step)"
    )
    frames = sorted(frames[1:])
    milliseconds["frame while scrolling, median"] = round(statistics.median(frames), 1)
    milliseconds["frame while scrolling, 99 %"] = round(frames[int(0.99 * (len(frames) - 1))], 1)
    return {"milliseconds": milliseconds, "mb_when_all_was_seen": memory_mb(driver)}


def write_only(num: int) -> dict[str, Any]:
    """Seconds and peak memory of writing the sheet of `num` sounds, in a process of its own."""
    from vaejax.drawing import thumbnails

    # Sizes are handed over: JAX, which comes with them, would hide what writing takes.
    levels, outline = thumbnails.THUMBNAIL_LEVELS, thumbnails.OUTLINE_WIDTH
    sizes = (thumbnails.THUMBNAIL_HEIGHT, thumbnails.THUMBNAIL_WIDTH, levels, outline)
    code = f"from benchmarks.sheet import write_synthetic; write_synthetic({num}, {sizes})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, before, peak, size = map(float, result.stdout.split())
    return {
        "sounds": num,
        "seconds": round(seconds, 2),
        "microseconds_per_sound": round(1e6 * seconds / num, 1),
        "process_mb_before": round(before, 1),
        "process_mb_peak": round(peak, 1),
        "pages_mb": round(size, 1),
    }


def write_synthetic(num: int, sizes: tuple[int, int, int, int]) -> None:
    """Writes the sheet of partials that die away over some noise: pictures that pack as sounds do.

    Prints seconds, the process's peak memory before and after, and the size of the pages, in MB.
    """
    from vaejax.export.sheet import SheetWriter

    height, width, num_levels, outline = sizes
    batch, random = 512, np.random.default_rng(0)
    partials = random.uniform(0.4, 1, (batch, height, 1)) * np.linspace(1, 0, width)
    noisy = np.clip(partials + random.normal(0, 0.012, (batch, height, width)), 0, 1)
    levels = np.rint(noisy * (num_levels - 1)).astype(np.uint8)
    thumbnails = levels * np.uint8(256 // num_levels)
    outlines = random.integers(0, 256, (batch, outline), dtype=np.uint8)

    def peak_mb() -> float:  # Not getrusage, where a new process begins with its parent's peak.
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1]) / 2**10

    before = peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with SheetWriter(Path(folder), title="Written only", sample_rate=44_100) as writer:
            for start in range(0, num, batch):
                rows = [
                    {
                        "index": i,
                        "file": f"{i:06d}.wav",
                        "label": None,
                        "seed": 0,
                        "temperature": 1.0,
                        "run": "0" * 16,
                        "peak": 0.891251,
                        "rms_db": -20 - i % 997 / 100,
                        "novelty": i % 1013 / 500,
                        "nearest_file": f"bell/{i % 2000:05d}",
                        "map": [i % 101, i % 103],
                    }
                    for i in range(start, min(start + batch, num))
                ]
                writer.add(rows, thumbnails[: len(rows)], outlines[: len(rows)])
        seconds = time.perf_counter() - started
        size = sum(page.stat().st_size for page in Path(folder).glob("*.html")) / 2**20
    print(seconds, before, peak_mb(), size)


def main(options: Options) -> None:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder
        if folder is None:
            folder = Path(temporary) / "out"
            command = ["sample.py", "--workdir", options.workdir, "--out", folder]
            subprocess.run(
                [sys.executable, *map(str, command), "--num", str(options.num)],
                cwd=ROOT,
                check=True,
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(temporary) / "cache")},
            )
        pages = sorted(folder.resolve().glob("index*.html"))
        figures["sounds"] = (folder / "manifest.jsonl").read_bytes().count(b"\n")
        figures["pages_mb"] = [round(page.stat().st_size / 2**20, 2) for page in pages]
        figures |= measure(folder.resolve() / "index.html", options.repeats)
    if options.write:
        figures["writing_alone"] = write_only(options.write)
    record.save("sheet", figures)


if __name__ == "__main__":
    main(tyro.cli(Options))
