"""What the files of a folder of sounds are to be."""

from typing import NamedTuple

from vaejax.export.mastering import Level


class Files(NamedTuple):
    """What the files are to be."""

    suffix: str = "wav"
    """`wav` or `flac`."""
    subtype: str = "PCM_16"
    """`PCM_16`, `PCM_24` or `FLOAT`."""
    dither: str = "tpdf"
    """Of PCM_16: `tpdf` or `none`."""
    sample_rate: int | None = None
    """Hz; None for the run's own."""
    level: Level | None = None
    """Peak or loudness; None for the peak of the run's config."""
    trim_db: float | None = None
    """Below the peak; a silent end is cut off. None keeps it."""
    loop: bool = False
    """Whether to look for loops."""
    names: str = "index"
    """`index`: as the plan has them. `label`: by label, note and index."""
    sfz: bool = False
    """Whether to write SFZ instruments."""
    archive: bool = False
    """Whether to make a zip beside the folder."""

    @property
    def listens(self) -> bool:
        """Whether the pitch of every sound has to be known."""
        return self.loop or self.sfz or self.names == "label"


PLAIN = Files()
