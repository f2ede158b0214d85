"""The figures of an evaluation as text for the screen and as a page that needs nothing else."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vaejax.drawing import picture
from vaejax.evaluate.generation import GENERATION, SIZED
from vaejax.evaluate.systems import PCA, PPCA, VAEJAX

# Dimensions of z that the table of effects shows; the JSON has all.
EFFECT_ROWS = 12
ABOUT = {
    "mel_l1_db": ("mel L1, dB", "lower", "The headline: 128-band mel levels, as audio"),
    "lsd_db": ("log-spectral distance, dB", "lower", "Per STFT bin, as audio"),
    "spectral_convergence_db": ("spectral convergence, dB", "lower", "Of magnitudes, as audio"),
    "multi_resolution_stft": ("multi-resolution STFT", "lower", "As auraloss defines it"),
    "attack_error_db": ("attack error, dB", "lower", "Level envelope, first 50 ms, at equal peaks"),
    "body_db": ("body, dB", "", "Level of the loudest 50 ms at equal peaks; 0 is as it should be"),
    "onset": ("begins loud", "lower", "Share whose first 4 samples reach half of their peak"),
    "onset_step": ("begins with a step", "lower", "Share that begins with a click"),
    "feature_mse": ("feature MSE", "lower", "Before phase recovery, in standardised values"),
    "feature_lsd_db": ("feature LSD, dB", "lower", "Before phase recovery"),
    "si_sdr_db": ("SI-SDR, dB", "higher", "Sample by sample, at the best scale, as audio"),
    "frechet_mel": ("Fréchet distance (mel)", "lower", "Of Gaussians fitted to both sets"),
    "precision": ("precision", "higher", "Share of new sounds that are in the family"),
    "recall": ("recall", "higher", "Share of the family that new sounds reach"),
    "density": ("density", "higher", "How well into the family new sounds lie; may exceed 1"),
    "coverage": ("coverage", "higher", "Share of training sounds with a new one near them"),
    "ndb": ("NDB / K", "lower", "Share of regions with too many or too few; 0.05 is chance"),
    "jensen_shannon": ("Jensen-Shannon, nats", "lower", "Between shares of regions; at most 0.693"),
    "novelty": ("novelty, median", "", "Distance to the nearest training sound; theirs is 1"),
    "copies": ("copies", "lower", "Share with novelty below 0.1"),
    "diversity": ("diversity", "", "Mean distance between two sounds; in the training set 1"),
    "silent": ("silent", "lower", "Share below -60 dB of full scale"),
    "clipped": ("clipped", "lower", "Share with two samples in a row at full scale"),
    "iwae": ("IWAE bound, nats", "higher", "Of log p(x), per sound"),
    "elbo": ("ELBO, nats", "higher", "The same with one draw"),
    "bits_per_value": ("bits per value", "lower", "The bound, per value of the spectrogram"),
}
"""Figure -> name, which way is better, what it says."""
COLORS = {VAEJAX: "#d4552a", PPCA: "#3a78b5", PCA: "#3a78b5"}


def sections(figures: dict[str, Any]) -> list[tuple[str, Sequence[str], dict[str, Any]]]:
    """Title, figures and system -> figure -> value of each table."""
    judged = figures["judged"]
    found: list[tuple[str, Sequence[str], dict[str, Any]]] = [
        (
            f"Reconstruction of {judged['sounds']} sounds ({judged['what']})",
            tuple(figures["reconstruction"]["systems"][VAEJAX]),
            figures["reconstruction"]["systems"],
        )
    ]
    if "generation" in figures:
        made = figures["generation"]
        sizes = ", ".join(f"{name} {num}" for name, num in made["num"].items())
        title = f"Generation against {made['training_sounds']} training sounds ({sizes})"
        if figures["temperature"] != 1.0:
            title += f", {VAEJAX} at temperature {figures['temperature']:g}"
        found.append((title, GENERATION, made["systems"]))
        if made["subsets"]:
            title = f"The same for sets of {made['subset_size']} sounds each"
            found.append((title, SIZED, made["subsets"]))
    if "bound" in figures:
        title = f"Likelihood (k = {figures['bound']['num_draws']})"
        found.append((title, ("iwae", "elbo", "bits_per_value"), figures["bound"]["systems"]))
    return found


def latent_tables(figures: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows, the first of which is the head, of every table of the latent."""
    latent = figures["latent"]

    def interval(name):
        f = latent[name]
        return f"{number(f['value'])} ({number(f['low'])}..{number(f['high'])})"

    rows = [
        ["", "nats per sound", "bits per value"],
        ["distortion (recon)", interval("distortion"), interval("distortion_bits_per_value")],
        ["rate (kl)", interval("rate"), interval("rate_bits_per_value")],
        ["of it: information on the sound", number(latent["mutual_information"]), ""],
        ["of it: aggregate posterior to prior", number(latent["marginal_kl"]), ""],
    ]
    shares = f"{100 * latent['explained']:.1f} % of the variance around the mean sound is rebuilt"
    if "explained_by_pca" in latent:
        shares += f" (PCA: {100 * latent['explained_by_pca']:.1f} %)"
    dims = figures["run"]["latent_dim"]
    title = f"Latent: {latent['active_units']} of {dims} dimensions in use; {shares}"
    tables = [(title, rows)]
    head = ["z", "change", "level, dB", "centroid, oct", "pitch, semitones", "(share)"]
    rows = [[*head, "attack, ms", "around, Hz", "at, s"]]
    for e in latent["effects"][:EFFECT_ROWS]:
        rows.append(
            [
                str(e["dimension"]),
                f"{100 * e['size']:.0f} %",
                *(f"{e[name]:+.2f}" for name in ("level", "centroid", "pitch")),
                f"{e['pitch_share']:.2f}",
                f"{e['attack']:+.1f}",
                f"{e['hertz']:.0f}",
                f"{e['time']:.2f}",
            ]
        )
    shown = min(EFFECT_ROWS, len(latent["effects"]))
    tables.append(
        (f"What one standard deviation does: the {shown} dimensions that change most", rows)
    )
    if factors := latent.get("factors"):
        rows = [["factor", "R2", "R2 of a straight line", "held-out sounds"]]
        rows += [
            [name, f"{f['r2']:.3f}", f"{f['r2_linear']:.3f}", str(f["sounds"])]
            for name, f in factors.items()
        ]
        tables.append(("Known factors, predicted from z", rows))
    return tables


def kind_table(figures: dict[str, Any]) -> tuple[str, list[list[str]]]:
    """Title and rows of the reconstructions by kind of sound, the originals beside them."""
    head = ["kind", "sounds", "", "mel L1, dB", "attack error, dB", "body, dB (median)"]
    rows = [[*head, "body within 3 dB", "begins loud", "with a step"]]

    def share(value: float) -> str:
        return f"{100 * value:.0f} %"

    for kind, found in figures["by_kind"].items():
        starts = [share(found["originals"][key]["value"]) for key in ("onset", "onset_step")]
        rows.append([kind, str(found["sounds"]), "originals", "", "", "", "", *starts])
        for system, f in found["systems"].items():
            values = [number(f[key]["value"]) for key in ("mel_l1_db", "attack_error_db")]
            body = [f"{f['body_db_median']:+.2f}", share(f["body_within_3_db"])]
            starts = [share(f[key]["value"]) for key in ("onset", "onset_step")]
            rows.append(["", "", system, *values, *body, *starts])
    return "Reconstruction by kind of sound", rows


def plain_tables(figures: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows of the tables that have no intervals."""
    return [kind_table(figures), *latent_tables(figures)]


def number(value: float) -> str:
    """Three digits that matter, four of thousands."""
    if not np.isfinite(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value else "0"


def table(figures: dict[str, Any]) -> str:
    """All tables as text: value and, in brackets, its interval."""
    lines = []
    for title, keys, systems in sections(figures):
        rows = [["", *systems]]
        for key in keys:
            name, better, _ = ABOUT[key]
            arrow = {"lower": " ↓", "higher": " ↑", "": ""}[better]
            cells = []
            for values in systems.values():
                f = values[key]
                cells.append(f"{number(f['value'])} ({number(f['low'])}..{number(f['high'])})")
            rows.append([name + arrow, *cells])
        lines += _aligned(title, rows)
    for title, rows in plain_tables(figures):
        lines += _aligned(title, rows)
    return "\n".join([*lines, "", *verdicts(figures), ""])


def _aligned(title: str, rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return ["", title, *("  " + line for line in padded)]


def verdicts(figures: dict[str, Any]) -> list[str]:
    """Sentences on how the run stands against the baselines."""
    lines = []
    for name, against in figures["reconstruction"]["vaejax_against"].items():
        ratio = against["mel_l1_db_ratio"]
        lines.append(
            f"mel L1 is {number(ratio['value'])} times that of {name} "
            f"({number(ratio['low'])}..{number(ratio['high'])}), lower for "
            f"{100 * against['better']:.0f} % of the sounds"
        )
    for name, ratio in figures.get("generation", {}).get("frechet_mel_ratio_to", {}).items():
        lines.append(
            f"the Fréchet distance of new sounds is {number(ratio['value'])} times that of {name} "
            f"({number(ratio['low'])}..{number(ratio['high'])})"
        )
    for name, gain in figures.get("bound", {}).get("vaejax_minus", {}).items():
        lines.append(
            f"log-likelihood bound {number(gain['value'])} nats per sound above {name} "
            f"({number(gain['low'])}..{number(gain['high'])})"
        )
    if "si_sdr_db" not in figures["reconstruction"]["systems"][VAEJAX]:
        lines.append("SI-SDR does not apply: phase is recovered, not modelled")
    return lines


# The page

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd;
  vertical-align: top }
td small, p small, figcaption { color: #666; font-size: .8rem } td b { font-weight: 600 }
.wide { overflow-x: auto } .ours { background: #fbeee8 }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0 }
img { display: block; width: 240px; height: 130px; image-rendering: auto }
audio { width: 240px; height: 32px } svg { max-width: 100%; height: auto }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  th, td { border-color: #444 } td small, p small, figcaption { color: #999 }
  .ours { background: #40241a } svg text { fill: #ddd } }
"""


def page(figures: dict[str, Any], examples: dict[str, Any]) -> str:
    """A page of tables, plots and sounds, without anything from elsewhere."""
    run = figures["run"]
    split = run["split"]
    groups = f" ({', '.join(split['groups'])})" if split["groups"] else ""
    parts = [
        f"<h1>Evaluation of {html.escape(Path(run['workdir']).name)}</h1>",
        f"<p>Step {run['step']}, {run['counts']['train']} training sounds, "
        f"{run['counts']['held_out']} held out by {split['by']}{html.escape(groups)}, "
        f"{run['latent_dim']} dimensions. Values in brackets are bootstrap intervals of 95 %.</p>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in verdicts(figures)) + "</ul>",
    ]
    for title, keys, systems in sections(figures):
        parts += [f"<h2>{html.escape(title)}</h2>", _table(keys, systems)]
    for title, rows in plain_tables(figures):
        parts += [f"<h2>{html.escape(title)}</h2>", _plain_table(rows)]
    about = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(text)}</li>"
        for name, text in figures["about"].items()
    )
    parts += ["<h2>What is compared</h2>", f"<ul>{about}</ul>"]
    if examples["points"]:
        parts += ["<h2>Where the sounds lie</h2>", _map(examples["points"])]
    parts += ["<h2>Training</h2>", _curve(figures["curve"])]
    parts += ["<h2>Rebuilt: worst, middle, best</h2>", _sounds(examples)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Evaluation</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _table(keys: Sequence[str], systems: dict[str, Any]) -> str:
    head = "".join(f"<th{_ours(name)}>{html.escape(name)}</th>" for name in systems)
    rows = [f"<tr><th></th>{head}</tr>"]
    for key in keys:
        name, better, says = ABOUT[key]
        arrow = {"lower": " ↓", "higher": " ↑", "": ""}[better]
        cells = "".join(
            f"<td{_ours(system)}>{number(f[key]['value'])}<br><small>{number(f[key]['low'])} .. "
            f"{number(f[key]['high'])}</small></td>"
            for system, f in systems.items()
        )
        rows.append(f"<tr><td>{name}{arrow}<br><small>{says}</small></td>{cells}</tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _plain_table(rows: list[list[str]]) -> str:
    def line(row, kind):
        cells = (f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "td") for row in rows[1:])
    return f'<div class="wide"><table>{line(rows[0], "th")}{body}</table></div>'


def _ours(name: str) -> str:
    return ' class="ours"' if name == VAEJAX else ""


def _map(points: dict[str, np.ndarray]) -> str:
    """The two main directions in which training sounds differ; one panel per system."""
    training = points["training sounds"][:2000, :2]
    low, high = training.min(0), training.max(0)
    span = np.maximum(high - low, 1e-9)
    size = 300

    def dots(xy, color, radius):
        places = (xy - low) / span * (size - 40) + 20
        return "".join(
            f'<circle cx="{x:.0f}" cy="{size - y:.0f}" r="{radius}" fill="{color}"/>'
            for x, y in np.clip(places, 2, size - 2)
        )

    panels = []
    for name, made in points.items():
        if name == "training sounds":
            continue
        panels.append(
            f'<figure><svg width="{size}" height="{size}" viewBox="0 0 {size} {size}">'
            f"{dots(training, '#bbb', 2)}{dots(made[:500, :2], COLORS.get(name, '#d4552a'), 1.6)}"
            f"</svg><figcaption>{html.escape(name)} over training sounds (grey)</figcaption>"
            "</figure>"
        )
    return f'<div class="row">{"".join(panels)}</div>'


def _curve(curve: list[dict[str, float]]) -> str:
    """mel L1 of the held-out sounds over the steps."""
    curve = [m for m in curve if "mel_l1_db" in m]
    if len(curve) < 2:
        return "<p>One evaluation only.</p>"
    steps = np.array([m["step"] for m in curve], float)
    values = np.array([m["mel_l1_db"] for m in curve], float)
    x = 50 + 530 * (steps - steps[0]) / (steps[-1] - steps[0])
    y = 170 - 150 * (values - values.min()) / max(np.ptp(values), 1e-9)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    labels = "".join(
        f'<text x="{at}" y="{up}" font-size="12" text-anchor="{anchor}">{text}</text>'
        for at, up, anchor, text in (
            (44, 24, "end", f"{values.max():.2f}"),
            (44, 174, "end", f"{values.min():.2f}"),
            (50, 192, "start", f"step {steps[0]:.0f}"),
            (580, 192, "end", f"{steps[-1]:.0f}"),
        )
    )
    return (
        '<figure><svg width="600" height="200" viewBox="0 0 600 200">'
        f'<polyline points="{line}" fill="none" stroke="{COLORS[VAEJAX]}" stroke-width="2"/>'
        f"{labels}</svg><figcaption>Mel L1 in dB on held-out sounds, at evaluations during "
        "training</figcaption></figure>"
    )


def _sounds(examples: dict[str, Any]) -> str:
    audio, rate = examples["audio"], examples["sample_rate"]
    order = np.argsort(examples["mel_l1_db"], kind="stable")[::-1]
    chosen = dict.fromkeys(int(order[i]) for i in (0, (len(order) - 1) // 2, len(order) - 1))
    shown = [name for name in ("original", VAEJAX, PCA, PPCA) if name in audio][:3]
    rows = []
    for i in chosen:
        cells = []
        for name in shown:
            waveform = audio[name][i] / 32767.0
            db = picture.spectrum_db(waveform, n_fft=1024, hop_length=256)
            image = picture.spectrogram_image(db, sample_rate=rate, height=130, width=240)
            clip = io.BytesIO()
            soundfile.write(clip, audio[name][i], rate, format="FLAC", subtype="PCM_16")
            png = _uri("image/png", picture.png_bytes(image))
            cells.append(
                f'<figure><img alt="spectrogram" src="{png}">'
                f'<audio controls preload="none" src="{_uri("audio/flac", clip.getvalue())}">'
                f"</audio><figcaption>{html.escape(name)}</figcaption></figure>"
            )
        # A name that is not UTF-8 has no place on a page.
        name = examples["names"][i].encode("utf-8", "replace").decode()
        title = f"{html.escape(name)}: {examples['mel_l1_db'][i]:.2f} dB"
        rows.append(f'<p>{title}</p><div class="row">{"".join(cells)}</div>')
    return "".join(rows)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
