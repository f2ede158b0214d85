"""The lines of the manifest: what stands beside each sound, for people, the sheet and `--redo`."""

import dataclasses
import math
from typing import Any

import numpy as np

from vaejax import features, names
from vaejax.export import sfz
from vaejax.export.files import Files
from vaejax.export.mastering import FACTS, Mastered
from vaejax.features import conditions
from vaejax.keys import midi_of_hz
from vaejax.sampling import sequences
from vaejax.sampling.order import Order
from vaejax.sampling.plans import Plan
from vaejax.signal import phase
from vaejax.signal.pitch import CLEAR


class Lines:
    """Makes the lines of one folder."""

    def __init__(self, order: Order):
        """Gathers what all lines say."""
        run, plan, files, rules = order
        mastering = order.mastering
        self.run, self.plan, self.files, self.listens = run, plan, files, order.listens
        self.curated = rules is not None
        self.train_files = [row["file"] for row in run.data["files"] if row["split"] == "train"]
        self.labels = {row["file"]: row["label"] for row in run.data["files"]}
        self.neighbour_distance = float(run.instrument.embedding.median_neighbour)
        self.digits = max(5, len(str(plan.num - 1)))
        config = run.config
        inversion, iterations = features.inversion(config)
        if plan.form.hops is not None:
            # A loop's phase is found on the circle, by a method of its own.
            inversion, usual = phase.choose(
                config.features.n_fft, config.features.hop_length, method=sequences.LOOP_METHOD
            )
            iterations = usual if config.sound.iterations is None else config.sound.iterations
        self.about = {
            **plan.about,
            "inversion": inversion,
            "iterations": iterations,
            "sample_rate": mastering.sample_rate,
            "seconds": round(order.num_samples / config.data.sample_rate, 6),
            "subtype": files.subtype,
            "dither": "tpdf" if mastering.dithers else "none",
            "level": str(mastering.level),
            "fade_out_ms": mastering.fade_ms,
            "trim_silence": mastering.trim_db,
            "run": run.fingerprint,
            "step": run.step,
        }
        if rules is not None:
            given = dataclasses.asdict(rules).items()
            self.about["curation"] = {k: v for k, v in given if v is not None}

    def line(
        self, i: int, draw: int, told: np.ndarray | None, batch, j: int, mastered: Mastered
    ) -> dict[str, Any]:
        """What is said of sound i.

        Args:
          draw: index of its draw, another than i where draws were rejected.
          told: facts [batch, num_facts] of the batch, or None where nothing is told.
          batch: of `generate.sound_of`, as NumPy.
          j: row of the sound in the batch.
        """
        # All digits of what the model was told: it takes them to make the sound again.
        facts = [] if told is None else [None if math.isnan(x) else x for x in told[j].tolist()]
        # Made again, a sound may be mastered in another way.
        each = self.plan.each[i].items() if self.plan.each else ()
        nearest_file = self.train_files[int(batch["nearest"][j])]
        novelty = float(batch["novelty"][j])
        line = {
            "index": i,
            **({"draw": draw} if self.curated else {}),
            **({"facts": facts} if facts else {}),
            **{k: v for k, v in each if k not in FACTS},
            "file": file_name(self.plan, self.files, i),
            "latent_row": i,
            **self.about,
            **({} if told is None else self._said(told[j])),
            "peak": round(float(batch["peak"][j]), 6),
            "rms_db": round(float(batch["rms_db"][j]), 3),
            "onset": bool(batch["onset"][j]),
            "body_db": round(float(batch["body_db"][j]), 2),
            "spectral_convergence": rounded(batch["spectral_convergence_db"][j]),
            "nearest_file": nearest_file,
            "nearest_label": self.labels[nearest_file],
            "nearest_distance": round(novelty * self.neighbour_distance, 3),
            "novelty": round(novelty, 4),
        }
        if "held_frame" in batch:
            features = self.run.config.features
            held = int(batch["held_frame"][j]) * features.hop_length
            line["held_at"] = round(held / self.run.config.data.sample_rate, 6)
        if self.listens:
            clarity = float(batch["clarity"][j])
            heard = float(midi_of_hz(batch["hz"][j]))
            line["detected_pitch"] = round(heard, 3) if clarity >= CLEAR else None
            line["pitch_clarity"] = round(clarity, 3)
        line |= mastered.facts
        if self.files.names == "label":
            key = sfz.key_of(line)
            stem = names.telling(i, digits=self.digits, label=sfz.label_of(line), key=key)
            line["file"] = f"{stem}.{self.files.suffix}"
        return line

    def _said(self, facts: np.ndarray) -> dict[str, Any]:
        """What the model was told, in words: label and pitch, and `told`, the factors."""
        values = conditions.values_of(self.run.vocabulary, facts)
        said: dict[str, Any] = {n: values.pop(n) for n in ("label", "pitch") if n in values}
        return {**said, **({"told": values} if values else {})}


def rounded(figure) -> float | None:
    """A figure to three decimals; None, null in JSON, where there is none (NaN)."""
    return None if math.isnan(figure) else round(float(figure), 3)


def file_name(plan: Plan, files: Files, i: int) -> str:
    """Of sound i, as the plan has it."""
    return f"{plan.stems(i)}.{files.suffix}"


def origin(row: dict[str, Any]) -> str:
    """Where a sound comes from, as its file says it: the same for the same draw, chosen or not."""
    drawn = row.get("seed") is not None
    number = row.get("draw", row["index"]) if drawn else row["index"]
    said = {
        "run": row["run"],
        "step": row["step"],
        **({"seed": row["seed"], "draw": number} if drawn else {"index": number}),
    }
    return ", ".join(f"{name} {value}" for name, value in said.items())
