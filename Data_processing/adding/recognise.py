"""Recognise the annotation format of a delivery, and try the importer on it in earnest.

A guess (guesses.py) fits if its importer reads the delivery, if that states something, and if images of it are there.
Where the importer does not find all images by itself, the folder that holds most of them is looked for. Images are
never opened.
"""

import importlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from Data_processing.adding.guesses import Guess, classes_folder, common_folder, guesses, near_misses, of_folders
from Data_processing.import_source import Format, check_paths, read_annotations
from Data_processing.shared.imported import Imported, ImportOptions, write_imported
from Data_processing.sources.files import EMBEDDED, SourceFiles, images_below
from Datasets.tools.errors import UserError

TRIED = 50  # records of a guess that are looked for among the images
MAX_FOLDERS = 30  # of images, tried one after another

Ask = Callable[[str, Sequence[str], str], int]  # question, answers, the option that would have said it


@dataclass(frozen=True)
class Fit:
    """A guess that an importer reads, and the folders that its images may be in (None: the importer finds them)."""

    guess: Guess
    images: list[str | None]


@dataclass
class Seen:
    """What a whole source states. problems: of each rule, how many, and the first place and value."""

    records: int = 0
    found: int = 0
    first_missing: str = ""
    boxes: int = 0
    masks: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    folder: str = ""

    def add(self, row: Imported, there: bool) -> None:
        self.records += 1
        self.found += there
        if not there:
            self.first_missing = self.first_missing or row.image
        self.boxes += len(row.boxes or ())
        self.masks += row.mask is not None
        drawn = [box.name for box in row.boxes or ()]
        self.classes.update(drawn)
        self.classes.update({*(row.labels or ())}.difference(drawn))
        self.classes.update({count["name"]: count["count"] for count in row.counts or () if not drawn})
        if row.mask is not None:
            self.classes.update(dict.fromkeys((row.mask_names or {}).values(), 0))
        self.splits.update([row.split] if row.split else [])
        for rule, value in row.problems:
            number, first = self.problems.get(rule, (0, f"{row.origin}: {value}"))
            self.problems[rule] = number + 1, first


def recognise(files: SourceFiles, options: ImportOptions, form: Format | None, ask: Ask) -> tuple[Guess, ImportOptions]:
    """The format, and the options that its importer needs. ask: chooses where several fit.

    Raises UserError, saying what was looked for, if nothing fits.
    """
    found = guesses(files, options, form)
    fits, reasons = _fitting(files, found, options)
    tables_only = all(guess.format is Format.csv for guess in found)
    if not fits and tables_only and form is None and options.annotations is None:  # a table may be about anything
        fits, more = _fitting(files, of_folders(files, options, False), options)
        reasons += more
    if not fits and not reasons and options.annotations is None:
        reasons = _fitting(files, near_misses(files), options)[1]
    if not fits:
        raise UserError(reasons[0] if reasons else f"{files.path}: {_nothing(files)}")
    fit = _chosen(files.path, fits, ask)
    images = options.images
    if len(fit.images) > 1:
        shown = [folder or "." for folder in fit.images]
        images = fit.images[ask(f"{files.path}: which folder are the images in?", shown, "--images")]
    elif images is None:
        images = fit.images[0]
    told = replace(options, annotations=fit.guess.annotations, images=images)
    return fit.guess, _shortened(files, fit.guess.format, told, options.annotations is not None)


def _fitting(files: SourceFiles, found: Iterable[Guess], options: ImportOptions) -> tuple[list[Fit], list[str]]:
    """The guesses that fit, and why the others do not."""
    fits, reasons = [], []
    for guess in found:
        try:
            fits.append(Fit(guess, image_folders(files, guess, options)))
        except UserError as error:
            reasons.append(f"looks like {guess.format} ({guess.why}), but: {error}")
    return fits, reasons


def _chosen(path: Path, fits: Sequence[Fit], ask: Ask) -> Fit:
    forms = list(dict.fromkeys(fit.guess.format for fit in fits))
    if len(forms) > 1:
        told = [f"{form} ({next(f.guess.why for f in fits if f.guess.format is form)})" for form in forms]
        form = forms[ask(f"{path}: several formats fit: which one is meant?", told, "--format")]
        fits = [fit for fit in fits if fit.guess.format is form]
    if len(fits) == 1:
        return fits[0]
    told = [fit.guess.annotations or "." for fit in fits]
    return fits[ask(f"{path}: several annotations in {forms[0]} form fit: which are meant?", told, "--annotations")]


def try_import(files: SourceFiles, name: str, form: Format, options: ImportOptions) -> Seen:
    """Import the whole source into a temporary file, as the import stage would, and return what it states."""
    seen, names = Seen(), set(files.names())
    _, seen.folder, rows = read_annotations(files, form, options)

    def watched() -> Iterator[Imported]:
        for row in check_paths(rows):
            seen.add(row, _is_there(row, names))
            yield row

    with tempfile.TemporaryDirectory() as directory:
        write_imported(watched(), name, Path(directory, "records.parquet"))
    return seen


def _is_there(row: Imported, names: set[str]) -> bool:
    return row.image in names or EMBEDDED in row.image


def image_folders(files: SourceFiles, guess: Guess, options: ImportOptions) -> list[str | None]:
    """The folders that hold most images of the first records, if the importer does not find them all by itself.

    Raises UserError if the importer reads none of it, if it states nothing, or if none of its images is there.
    """
    told = replace(options, annotations=guess.annotations)
    if guess.format is Format.folders and told.images is None:
        return [classes_folder(files)]
    best: list[str | None] = []
    most, reason = 0, None
    for folder in [told.images, *(_candidates(files, guess.format) if told.images is None else ())]:
        try:
            found, tried = _count(files, guess.format, replace(told, images=folder))
        except UserError as error:
            reason = reason or error
            continue
        if found > most:
            best, most = [folder], found
        elif found == most and most and None not in best:
            best.append(folder)
        if folder is None and found == tried and found:
            break
    if not best:
        raise reason or UserError(f"{files.path}: none of its images is there; give --images, or add them to it")
    return best


def _candidates(files: SourceFiles, form: Format) -> list[str]:
    """Folders of images, with those above them that hold all; not those of VOC's masks."""
    folders = {name.rpartition("/")[0] for name in images_below(files, "")}
    if form is Format.voc:
        folders = {name for name in folders if not name.endswith(("SegmentationClass", "SegmentationObject"))}
    common = common_folder(f"{folder}/" for folder in folders)
    above = [str(path) for path in PurePosixPath(common).parents if str(path) != "."] if common else []
    every = dict.fromkeys(["", common, *above, *sorted(folders, key=lambda name: (name.count("/"), name))])
    return list(every)[:MAX_FOLDERS]


def _count(files: SourceFiles, form: Format, options: ImportOptions) -> tuple[int, int]:
    """How many of the first records have an image, and how many those are. Raises UserError if they state nothing."""
    names = set(files.names())
    found, _, every = read_annotations(files, form, options)
    rows = list(itertools.islice(every, TRIED))
    stated = any(row.labels or row.boxes is not None or row.counts or row.mask for row in rows)
    if not stated:
        raise UserError(f"{files.path}: {found[0]} states neither labels nor boxes nor masks")
    return sum(_is_there(row, names) for row in rows), len(rows)


def _shortened(files: SourceFiles, form: Format, options: ImportOptions, told: bool) -> ImportOptions:
    """Without `annotations` where the importer finds the same by itself."""
    shorter = replace(options, annotations=None)
    importer = importlib.import_module(f"Data_processing.readers.{form.value}")
    try:
        same = importer.find(files, shorter) == importer.find(files, options)
    except UserError:
        return options
    return shorter if same and not told and form is not Format.voc else options


def _nothing(files: SourceFiles) -> str:
    suffixes = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in files.names())
    held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6))
    others = "Datumaro reads dozens more, by --format datumaro:NAME"
    return (
        f"no annotation format is recognised in it ({held or 'no files'}); give --format, and what it needs; {others}"
    )
