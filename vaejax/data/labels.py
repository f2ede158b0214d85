"""The labels of sounds: the names of their folders, as far as these tell them apart."""

from collections import Counter
from collections.abc import Sequence


def of_folders(names: Sequence[str], top: str) -> list[str]:
    """The label of each sound: its folder's name, or the end of its path where others share that.

    So of `Kicks/Acoustic/a.wav` and `Snares/Acoustic/b.wav` the labels are `Kicks/Acoustic` and
    `Snares/Acoustic`, of `Kicks/a.wav` and `Snares/b.wav` just `Kicks` and `Snares`.

    Args:
      names: POSIX paths relative to the folder of all.
      top: name of that folder, for the sounds that are in no other.
    """
    folders = [tuple(name.split("/")[:-1]) for name in names]
    left = set(folders) - {()}
    labels: dict[tuple[str, ...], str] = {}
    depth = 1
    while left:
        ends = Counter(folder[-depth:] for folder in left)
        for folder in left:
            if ends[folder[-depth:]] == 1 or depth >= len(folder):
                labels[folder] = "/".join(folder[-depth:])
        left -= labels.keys()
        depth += 1
    taken, labels[()] = set(labels.values()), top
    while labels[()] in taken:
        labels[()] = f"{top}/{labels[()]}"
    return [labels[folder] for folder in folders]
