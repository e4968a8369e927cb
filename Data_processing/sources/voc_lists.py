"""VOC's lists, ImageSets/Main/train.txt and its like, and labelmap.txt, which says what masks' values mean."""

from collections import defaultdict
from collections.abc import Set

from Data_processing.sources.annotation_files import read_text
from Data_processing.sources.files import MissingFile, SourceFiles, inside
from Datasets.format.file_names import IMAGE_SUFFIXES
from Datasets.tools.errors import UserError

LISTS = ("train", "val", "test", "trainval")
CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
)


def read_lists(files: SourceFiles, root: str, known: Set[str]) -> dict[str, list[str]]:
    """The lists that name an image, of those whose lines are one word each: others are about one class.

    A line may have the image's suffix, unless an XML file or a mask is `known` by all of it, as that of a.jpg.xml is.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for folder in ("Main", "Segmentation"):
        for name, file in list_files(files, root, folder).items():
            for image in _list(files, file):
                found[image if image in known else without_suffix(image)].append(f"{folder}/{name}")
    return found


def list_files(files: SourceFiles, root: str, folder: str) -> dict[str, str]:
    """The files in a folder of ImageSets by the lists that they are, in whatever case the list is written."""
    below = f"{inside(root, f'ImageSets/{folder}')}/"
    there = sorted(name for name in files.names() if name.startswith(below))  # train.txt after Train.txt: it is meant
    called = {name.removeprefix(below).lower(): name for name in there}
    return {name: called[f"{name}.txt"] for name in LISTS if f"{name}.txt" in called}


def _list(files: SourceFiles, name: str) -> list[str]:
    try:
        lines = read_text(files, name).splitlines()
    except MissingFile:
        return []
    words = [line.split() for line in lines if line.strip()]
    return [line[0] for line in words] if all(len(line) == 1 for line in words) else []


def read_label_map(files: SourceFiles, root: str) -> dict[int, str]:
    """The lines of labelmap.txt, `name:color:parts:actions` from background on; VOC's classes where it is not there."""
    name = inside(root, "labelmap.txt")
    try:
        lines = read_text(files, name).splitlines()
    except MissingFile:
        return dict(enumerate(CLASSES.split(), 1))
    names = [line.partition(":")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    if names[:1] != ["background"] or len(names) > 255:
        raise UserError(f"{files.path}: {name}: begins with {names[:1]}; a mask's 0 must be `background`, 255 no class")
    return dict(enumerate(names[1:], 1))


def without_suffix(name: str) -> str:
    """The name without an image's suffix; another suffix, as in `a.b`, belongs to the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name
