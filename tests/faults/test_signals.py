"""Signals in a script's first seconds, and output that nobody reads."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from vaejax import interrupts

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def starting(request, name, *argv):
    """A script as a process, which has come to its first import."""
    script = request.config.rootpath / f"{name}.py"
    # That the handler is there is what the script's first statement sees to.
    process = subprocess.Popen(
        [sys.executable, script, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not _catches(process.pid) and time.monotonic() < deadline:
        time.sleep(0.002)
    return process


def _catches(pid):
    """Whether a process has a handler for SIGTERM, which Python itself sets none for."""
    with open(f"/proc/{pid}/status") as status:
        (caught,) = (line.split()[1] for line in status if line.startswith("SigCgt"))
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
@pytest.mark.parametrize("script", ["train", "sample"])
def test_a_signal_while_a_script_starts_ends_it_at_once(
    request, script, tiny, trained, folder, tmp_path
):
    command = {
        "train": (*tiny, "--data", folder, "--workdir", tmp_path / "run"),
        "sample": ("--workdir", trained, "--out", tmp_path / "out"),
    }[script]
    for i, delay in enumerate((0.0, 0.1, 0.3, 0.6, 1.0, 1.6)):
        process = starting(request, script, *command)
        time.sleep(delay)
        process.send_signal(KINDS[i % 3])
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (delay, err)
        assert err.decode().strip() == "interrupted", delay
        assert b"Traceback" not in out
    assert not (tmp_path / "out").exists()
    left = [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert set(left) <= {".lock", "config.json", "data.json"}


def test_what_is_being_written_when_a_signal_ends_the_script_is_not_left(tmp_path):
    program = """if 1:
        import os, signal, sys
        from pathlib import Path
        from vaejax import files, interrupts
        interrupts.end_at_once()
        folder = Path(sys.argv[1])
        files.replace(folder / "a.npz", lambda file: os.kill(os.getpid(), signal.SIGTERM))
    """
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"\ninterrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_closes_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        requests = interrupts.Requests()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        requests.restore()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", KINDS)
def test_each_signal_asks_once_and_the_second_insists(number, capfd):
    before = signal.signal(number, signal.default_int_handler)
    try:
        requests = interrupts.Requests()
        os.kill(os.getpid(), number)
        assert requests.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        requests.restore()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert "stopping after this step" in capfd.readouterr().err


def test_training_goes_on_when_nobody_reads_its_output(start, tiny, trained, folder, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    process = start("train", *tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=300) == 0
    assert (run / "checkpoints/last/60").is_dir()
