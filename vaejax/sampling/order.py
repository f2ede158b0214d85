"""What a folder of sounds is made to: the run, the plan, the files, the rules."""

from typing import NamedTuple

from vaejax.export.files import Files
from vaejax.export.mastering import Level, Mastering
from vaejax.run.load import Run
from vaejax.sampling import sequences
from vaejax.sampling.curation import Rules
from vaejax.sampling.plans import Plan


class Order(NamedTuple):
    """All that the files of a folder depend on."""

    run: Run
    plan: Plan
    files: Files
    rules: Rules | None = None
    """None where no draw can be rejected."""

    @property
    def mastering(self) -> Mastering:
        """What the host does to each sound."""
        config, files, is_loop = self.run.config, self.files, self.plan.form.hops is not None
        return Mastering(
            source_rate=config.data.sample_rate,
            sample_rate=files.sample_rate or config.data.sample_rate,
            trim_db=files.trim_db,
            fade_ms=0.0 if is_loop else config.sound.fade_out_ms,
            loop=files.loop,
            level=files.level or Level(config.sound.peak_db, "dBFS"),
            ceiling_db=config.sound.peak_db,
            subtype=files.subtype,
            dither=files.dither == "tpdf",
            is_loop=is_loop,
        )

    @property
    def device_subtype(self) -> str:
        """Of the samples that the device returns; floats where the host has to change them."""
        mastering = self.mastering
        return "FLOAT" if mastering.reshapes or mastering.dithers else self.files.subtype

    @property
    def listens(self) -> bool:
        """Whether the pitch of every sound is estimated. It is for a sound whose pitch was
        estimated before, because its file states it."""
        return self.files.listens or any("detected_pitch" in row for row in self.plan.each or ())

    @property
    def num_samples(self) -> int:
        """Of each sound, at the run's rate."""
        return sequences.num_samples(self.plan.form, self.run.config)

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent of the plan; a path of another length has another width."""
        latents = self.plan.latents
        return self.run.config.latent_dim if latents is None else latents.shape[1]
