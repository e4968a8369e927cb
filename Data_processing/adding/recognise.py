"""Find a source's annotation format: try the readers on its annotation files and rank what they report.

A reader is tried on files that look like its format (LOOKS). It fits if it reads them, the records state something, and
images of them are in the source. Images are never opened.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from Data_processing.import_source import find_reader, read_annotations
from Data_processing.readers.yolo import LABELS, class_files
from Data_processing.shared.imported import Imported, ImportOptions
from Data_processing.sources.annotation_files import WrongFormat, split_named, split_of, split_pattern
from Data_processing.sources.files import EMBEDDED, SHARDS, MissingFile, SourceFiles, folder_name, images_below
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

SAMPLE = 20  # files of a folder looked into
TRIED = 50  # records that are looked for among the images
# Of each format the suffixes of its files, and rows of patterns: a file looks like it if all of one row occur in it.
LOOKS: dict[str, tuple[set[str], list[list[bytes]]]] = {
    "coco": (
        {".json"},
        [[rb'"images"', rb'"annotations"'], [rb'"images"', rb'"categories"'], [rb'"annotations"', rb'"categories"']],
    ),
    "label_studio": (
        {".json"},
        [[rb"^\s*\[", rb'"data"', rb'"annotations"'], [rb'"task"', rb'"result"'], [rb'"annotation_id"']],
    ),
    "json": ({".json"}, [[rb'^(\xef\xbb\xbf)?\s*\[\s*\[\s*"']]),
    "labelme": ({".json"}, [[rb'"shapes"']]),
    "cvat": ({".xml"}, [[rb"<annotations[\s>]"]]),
    "voc": ({".xml"}, [[rb"<annotation[\s>]"]]),
    "yolo": (
        {".yaml", ".yml"},
        [[rb"(?m)(^|[{,])\s*[\"']?names[\"']?\s*:", rb"(?m)(^|[{,])\s*[\"']?(train|val|test)\w*[\"']?\s*:"]],
    ),
}
SINGLE = ("coco", "label_studio", "json", "cvat", "yolo")  # formats of one file that holds all

Ask = Callable[[str, Sequence[str], str], int]  # question, answers, the option that would have answered it


@dataclass(frozen=True)
class Candidate:
    """A format to try, what looks like it, and the annotations to name (None: the reader finds them)."""

    format: str
    what: str
    annotations: str | None = None


def recognise(
    files: SourceFiles, options: ImportOptions, form: str | None, ask: Ask
) -> tuple[Candidate, ImportOptions]:
    """The format, and the options that its reader needs. ask: chooses where several fit.

    Folders of images are classes only where nothing looks like annotations, or `form` says so. Raises UserError with
    the readers' reasons if nothing fits.
    """
    fits, refused = _try(files, candidates(files, options, form), options)
    if not fits and not any(refused.values()) and form is None and options.annotations is None:
        fits, _ = _try(files, class_folders(files, options, 2), options)
    if not fits:
        raise UserError(max(refused, key=refused.__getitem__, default=f"{files.path}: {_nothing(files)}"))
    chosen = _choose(files.path, fits, ask)
    images = _classes_folder(files) if chosen.format == "folders" and options.images is None else options.images
    needed = replace(options, annotations=chosen.annotations, images=images)
    if options.annotations is None and _finds_itself(files, chosen.format, needed):
        needed = replace(needed, annotations=None)
    return chosen, needed


def candidates(files: SourceFiles, options: ImportOptions, form: str | None) -> list[Candidate]:
    """What the source may be, as the options allow; if `form` is given, at least that."""
    chosen = folder_name(options.annotations or ".")
    names = [n for n in files.names() if not chosen or n.startswith(f"{chosen}/") or fnmatchcase(n, chosen)]
    looks = _look(files, names)
    single = [Candidate(each, name, name) for each in SINGLE for name in looks[each]]
    single += [Candidate("csv", name, name) for name in visible(names, {".csv", ".tsv"})]
    found = [*_joined(single, names), *_voc(files, looks["voc"]), *_labelme(files, looks["labelme"])]
    if not looks["yolo"]:
        found += _label_files(files, names)
    if parquet := list(visible(names, {".parquet"})):
        found.append(Candidate("parquet", f"{len(parquet)} Parquet files"))
    if any(PurePosixPath(name).match(SHARDS) for name in parquet):
        found = [each for each in found if each.format != "json"]  # metadata.json says the same again
    if form is not None:
        found = class_folders(files, options, 1) if form == "folders" else [c for c in found if c.format == form]
    if options.annotations is not None:
        found = list({each.format: replace(each, annotations=options.annotations) for each in found}.values())
    return found or ([] if form is None else [Candidate(form, "as --format says", options.annotations)])


def _look(files: SourceFiles, names: Sequence[str]) -> dict[str, list[str]]:
    """The files that look like each format; read are the first SAMPLE of each folder and suffix."""
    found: dict[str, list[str]] = {each: [] for each in LOOKS}
    for name in _sampled(visible(names, set().union(*(suffixes for suffixes, _ in LOOKS.values())))):
        content, suffix = _content(files, name), PurePosixPath(name).suffix.lower()
        for each, (suffixes, rows) in LOOKS.items():
            if suffix in suffixes and any(all(re.search(p, content) for p in patterns) for patterns in rows):
                found[each].append(name)
    return found


def _sampled(names: Iterable[str]) -> Iterator[str]:
    """The first files of each folder and suffix."""
    taken: Counter[tuple[str, str]] = Counter()
    for name in names:
        place = name.rpartition("/")[0], PurePosixPath(name).suffix
        taken[place] += 1
        if taken[place] <= SAMPLE:
            yield name


def _content(files: SourceFiles, name: str) -> bytes:
    try:
        return files.read(name)
    except MissingFile:
        return b""


def _joined(found: Sequence[Candidate], names: Iterable[str]) -> list[Candidate]:
    """The candidates, those whose files differ in the split that their names state as one; YOLO's each read all."""
    alike = defaultdict(list)
    for each in found:
        alike[each.format, split_pattern(each.what)].append(each)
    joined = []
    for (form, pattern), group in alike.items():
        same = [each.what for each in group]
        several = form != "yolo" and len(set(map(split_of, same))) > 1
        if several and sorted(same) == sorted(n for n in names if fnmatchcase(n, pattern)):
            joined.append(Candidate(form, f"{' and '.join(same)}, a file a split", pattern))
        else:
            joined += group
    return joined


def _voc(files: SourceFiles, described: Sequence[str]) -> Iterator[Candidate]:
    """The folders called Annotations, if they hold all of the XML files; else the one that does."""
    ends = [re.match(r"(.*/)?annotations(?=/)", name, re.IGNORECASE) for name in described]
    folders = sorted({end[0] for end in ends if end}) if all(ends) else [common_folder(described)]
    for folder in folders:
        below = sum(1 for _ in visible(files.names(), {".xml"}, folder))
        what = f"{below} XML files in {folder or '.'}"
        yield Candidate("voc", what, None if folder == "Annotations" else folder or ".")
    lists = [name for name in files.names() if re.search(r"(^|/)ImageSets/Segmentation/\w+\.txt$", name)]
    if lists and not described:
        root = lists[0].rpartition("ImageSets/")[0]
        yield Candidate("voc", f"{lists[0]} lists images", f"{root}Annotations" if root else None)


def _labelme(files: SourceFiles, described: Sequence[str]) -> Iterator[Candidate]:
    if described:
        folder = common_folder(described) or "."
        others = sum(1 for name in _sampled(visible(files.names(), {".json"}))) - len(described)
        yield Candidate("labelme", f"{len(described)} JSON files in {folder}", folder if others else None)


def _label_files(files: SourceFiles, names: Sequence[str]) -> Iterator[Candidate]:
    """YOLO without data.yaml: a file of class names, if there are label files."""
    classes = class_files(files, names)
    texts = (name for name in _sampled(visible(files.names(), {".txt"})) if name not in classes)
    labels = next((name for name in texts if LABELS.match(_content(files, name).decode(errors="replace"))), None)
    listed: list[str | None] = [*classes] or [None]
    for file in listed if labels else ():
        yield Candidate("yolo", f"label files such as {labels}", file)


def class_folders(files: SourceFiles, options: ImportOptions, least: int) -> list[Candidate]:
    """Folders of images as classes, if there are at least so many beside one that holds all."""
    folders = {name.rpartition("/")[0] for name in images_below(files, options.images or "")}
    apart = folders - {common_folder(f"{folder}/" for folder in folders)} if least > 1 else folders
    return [Candidate("folders", f"images in {len(folders)} folders")] if len(apart) >= least else []


def common_folder(names: Iterable[str]) -> str:
    """The folder that all of these files are in, directly or below; "" for the source itself."""
    folders = [name.split("/")[:-1] for name in names]
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in same)


def _try(
    files: SourceFiles, found: Iterable[Candidate], options: ImportOptions
) -> tuple[list[Candidate], dict[str, bool]]:
    """The candidates that fit; why others do not, and whether they are of the format: a table may be of anything."""
    fits, refused = [], {}
    for candidate in found:
        try:
            _check(files, candidate.format, replace(options, annotations=candidate.annotations))
            fits.append(candidate)
        except UserError as error:
            certain = candidate.format != "csv" and not isinstance(error, WrongFormat)
            refused[f"looks like {candidate.format} ({candidate.what}), but: {error}"] = certain
    return fits, refused


def _check(files: SourceFiles, form: str, options: ImportOptions) -> None:
    """Read the first records. Raises UserError if they state nothing, or none of their images is there."""
    names = set(files.names())
    found, _, every = read_annotations(files, form, options)
    rows = list(itertools.islice(every, TRIED))
    if not any(row.labels or row.boxes is not None or row.counts or row.mask for row in rows):
        raise UserError(f"{files.path}: {found[0]} states neither labels nor boxes nor masks")
    if not any(is_there(row, names) for row in rows):
        raise UserError(f"{files.path}: none of its images is there; give --images, or add them to it")


def _classes_folder(files: SourceFiles) -> str | None:
    """The folder above the classes' or the splits' ones: wrappers around all of a source are no class."""
    folders = {name.rpartition("/")[0] for name in images_below(files, "")}
    common = common_folder(f"{folder}/" for folder in folders)
    above, _, last = common.rpartition("/")
    return (above if len(folders) == 1 or split_named(last) else common) or None


def is_there(row: Imported, names: set[str]) -> bool:
    """Whether the source has the image. names: of all its files."""
    return row.image in names or EMBEDDED in row.image


def _choose(path: Path, fits: Sequence[Candidate], ask: Ask) -> Candidate:
    forms = list(dict.fromkeys(fit.format for fit in fits))
    if len(forms) > 1:
        shown = [f"{form} ({next(fit.what for fit in fits if fit.format == form)})" for form in forms]
        form = forms[ask(f"{path}: several formats fit: which one is meant?", shown, "--format")]
        fits = [fit for fit in fits if fit.format == form]
    if len(fits) == 1:
        return fits[0]
    shown = [fit.annotations or "." for fit in fits]
    return fits[ask(f"{path}: several annotations in {forms[0]} form fit: which are meant?", shown, "--annotations")]


def _finds_itself(files: SourceFiles, form: str, options: ImportOptions) -> bool:
    """Whether the reader finds the same annotations without being given them."""
    reader = find_reader(form)
    try:
        return form != "voc" and reader.find(files, replace(options, annotations=None)) == reader.find(files, options)
    except UserError:
        return False


def _nothing(files: SourceFiles) -> str:
    suffixes = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in files.names())
    held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6))
    others = "Datumaro reads dozens more, by --format datumaro:NAME"
    return (
        f"no annotation format is recognised in it ({held or 'no files'}); give --format, and what it needs; {others}"
    )
