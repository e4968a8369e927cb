"""Find a source's annotation format: try the readers on what looks like their files. No image is opened.

A format fits if its reader reads the files, the records state something, and images of them are in the source.
"""

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import PurePosixPath
from posixpath import commonpath
from typing import Any

import msgspec

from Data_processing.cleaning.rules import REMEDIES
from Data_processing.import_source import find_reader, read_annotations
from Data_processing.readers.masks import find_kinds
from Data_processing.readers.yolo import KERAS, KERAS_FILE, LABELS, class_files
from Data_processing.shared.annotation_files import WrongFormat, decode_json, split_named, split_of, split_pattern
from Data_processing.shared.files import MissingFile, SourceFiles, folder_name, images_below, inside, is_there
from Data_processing.shared.imported import ImportOptions
from Datasets.format.files import visible
from Datasets.tools.errors import UserError

SAMPLE = 20  # files of a folder looked into
TRIED = 50  # records that are looked for among the images
Looks = dict[str, tuple[set[str], list[list[bytes]]]]
TABLE = "write the annotations as a table with the columns image, label, x1, y1, x2, y2 (csv)"
DATUMARO = "Datumaro reads it: --format datumaro:"
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"})
# Of each kind of file its suffixes and what occurs in it: all patterns of one row, or any content where there is none.
LOOKS: Looks = {
    "coco": ({".json"}, [[rb'"images"', rb'"annotations"|"categories"'], [rb'"annotations"', rb'"categories"']]),
    "label_studio": (
        {".json"},
        [[rb"^\s*\[", rb'"data"', rb'"annotations"'], [rb'"task"', rb'"result"'], [rb'"annotation_id"']],
    ),
    "json": ({".json"}, [[rb'^(\xef\xbb\xbf)?\s*\[\s*\[\s*"']]),
    "labelme": ({".json"}, [[rb'"shapes"']]),
    "via": ({".json"}, [[rb'"shape_attributes"'], [rb'"_via_img_metadata"'], [rb'"regions"', rb'"file_attributes"']]),
    "createml": ({".json"}, [[rb"^(\xef\xbb\xbf)?\s*\[\s*\{", rb'"image(filename)?"', rb'"annotations?"\s*:\s*[\["]']]),
    "supervisely": ({".json"}, [[rb'"objects"', rb'"size"', rb'"tags"'], [rb'"classTitle"']]),
    "huggingface": ({".jsonl"}, [[rb'"file_name"']]),
    "cvat": ({".xml"}, [[rb"<annotations[\s>]"]]),
    "voc": ({".xml"}, [[rb"<annotation[\s>]"]]),
    "yolo": (
        {".yaml", ".yml"},
        [[rb"(?m)(^|[{,])\s*[\"']?names[\"']?\s*:", rb"(?m)(^|[{,])\s*[\"']?(train|val|test)\w*[\"']?\s*:"]],
    ),
    "keras": ({".txt"}, [[KERAS.pattern.encode()]]),
    "yolo labels": ({".txt"}, [[rb"\A" + LABELS.pattern.encode()]]),
    "csv": ({".csv", ".tsv"}, []),
    "parquet": ({".parquet"}, []),
}
# Formats that no reader here reads, and what to do with them.
OTHERS: Looks = {
    f"a manifest of SageMaker Ground Truth; {TABLE}": ({".manifest", ".jsonl", ".json"}, [[rb'"source-ref"']]),
    f"JSON lines of Azure or Vertex; {TABLE}": ({".jsonl"}, [[rb'"image_url"|"imageGcsUri"']]),
    "an export of Labelbox; convert it to COCO": (
        {".json", ".ndjson", ".jsonl"},
        [[rb'"data_row"', rb'"projects"'], [rb'"Labeled Data"|"DataRow ID"']],
    ),
    "an export of V7 Darwin; export it as COCO": ({".json"}, [[rb'"bounding_box"', rb'"item"|"image"']]),
    "NDJSON of Ultralytics; export it as YOLO": ({".ndjson"}, [[rb'"class_names"']]),
    "a project of VIA 3; convert it to COCO, or to JSON of VIA 2": ({".json"}, [[rb'"pid"', rb'"vid_list"']]),
    "a table of VIA; export the annotations as JSON": ({".csv"}, [[rb"region_shape_attributes"]]),
    "JSON of Scalabel or BDD100K; `python -m scalabel.label.to_coco` converts it": ({".json"}, [[rb'"(box|poly)2d"']]),
    f"JSON of Datumaro; {DATUMARO}datumaro": ({".json"}, [[rb'"infos?"', rb'"categories"', rb'"items"']]),
    f"JSON of Cityscapes; {DATUMARO}cityscapes": ({".json"}, [[rb'"imgHeight"', rb'"polygon"']]),
    f"labels of KITTI; {DATUMARO}kitti_detection": ({".txt"}, [[rb"\A[A-Za-z_]+( -?\d[\d.]*){14,15}\s*(\n|\Z)"]]),
    f"boxes of WIDER FACE; {DATUMARO}wider_face": ({".txt"}, [[rb"\A[^\n]+\.jpe?g\s*\n\d+\s*\n(\d+ ){9}\d"]]),
    f"tracks of MOT; {DATUMARO}mot_seq": ({".txt"}, [[rb"\A\d+,-?\d+(,-?[\d.]+){7,8}\s*(\n|\Z)"]]),
    "labels of DOTA; its DOTA_devkit converts them to COCO": (
        {".txt"},
        [[rb"(?m)^(-?\d[\d.]* ){8}[a-z][\w-]* [012]\s*$"]],
    ),
    f"a TFRecord; {DATUMARO}tf_detection_api, if TensorFlow is beside it": ({".tfrecord", ".tfrecords", ".record"}, []),
    f"a shard of WebDataset, unpacked; {TABLE}": ({".cls"}, []),
    f"a file of arrays; write images as files, and {TABLE}": ({".mat", ".h5", ".hdf5", ".npz", ".npy", ".pkl"}, []),
}
UNCLEAR = ("missing image", "ambiguous image", "outside the source")  # what may be wrong with the name of an image
SINGLE = ("coco", "label_studio", "json", "via", "createml", "cvat", "yolo", "csv")  # one file holds all

Ask = Callable[[str, Sequence[str], str], int]  # question, answers, the option that would have answered it


@dataclass(frozen=True)
class Candidate:
    """A format that the source may have, what looks like it, and the options to read it with."""

    format: str
    what: str
    annotations: str | None = None
    images: str | None = None

    def options(self, given: ImportOptions) -> ImportOptions:
        images = self.images if given.images is None else given.images
        return replace(given, annotations=self.annotations, images=images)


def recognise(
    files: SourceFiles, options: ImportOptions, form: str | None, ask: Ask
) -> tuple[Candidate, ImportOptions]:
    """The format, and the options that its reader needs. ask: chooses where several fit.

    Images may be masks of others, and folders of images classes, only where nothing else looks like annotations, or
    `form` says so.
    """
    fits, refused = _try(files, candidates(files, options, form), options)
    unread = [] if fits else list(islice(_unread(files), 1))
    if not (fits or unread or any(refused.values()) or form):
        fits, others = _try(files, _pairs(files, options) or _class_folders(files, options, 2), options)
        refused |= others
    if not fits:
        suffixes = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in files.names())
        held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6)) or "no files"
        remedy = "give --format, and what it needs; Datumaro reads dozens more, by --format datumaro:NAME"
        nothing = f"{files.path}: no annotation format is recognised in it ({held}); {remedy}"
        best = [] if unread and not any(refused.values()) else [max(refused, key=refused.__getitem__, default=nothing)]
        raise UserError("; and ".join(best + unread))
    forms = {fit.format: f"{fit.format} ({fit.what})" for fit in reversed(fits)}
    shown = {forms[fit.format]: fit.format for fit in fits}
    form = _choose(shown, f"{files.path}: several formats fit: which one is meant?", "--format", ask)
    named = {fit.annotations or ".": fit for fit in fits if fit.format == form}
    which = f"{files.path}: several annotations in {form} form fit: which are meant?"
    fit = _choose(named, which, "--annotations", ask)
    needed = fit.options(options)
    if options.annotations is None:
        reader, alone = find_reader(fit.format), replace(needed, annotations=None)
        with suppress(UserError):  # of a reader that does not find the annotations itself
            if reader.find(files, alone) == reader.find(files, needed):
                needed = alone
    return fit, needed


def _choose(choices: Mapping[str, Any], question: str, option: str, ask: Ask) -> Any:
    answers = list(choices)
    return choices[answers[ask(question, answers, option) if len(answers) > 1 else 0]]


def candidates(files: SourceFiles, options: ImportOptions, form: str | None) -> list[Candidate]:
    """What the source may be, as the options allow; if `form` is given, at least that."""
    chosen, every = folder_name(options.annotations or "."), files.names()
    names = [n for n in every if not chosen or n.startswith(f"{chosen}/") or fnmatchcase(n, chosen)]
    looks = _look(files, {*names, *visible(every, {".txt"})}, LOOKS)
    single = [Candidate(each, name, name) for each in SINGLE for name in looks[each]]
    for each_form in ("coco", "createml"):
        if joined := _file_an_image(files, each_form, looks[each_form]):
            single = [joined, *(each for each in single if each.format != each_form)]
    found = [*_joined(single, names), *_voc(files, looks["voc"])]
    for each_form in ("labelme", "supervisely", "huggingface", "parquet"):
        if described := looks[each_form]:
            what = f"{len(described)} files such as {described[0]}"
            found.append(Candidate(each_form, what, _common_folder(described) or "."))
    named = dict.fromkeys(None if name.endswith(KERAS_FILE) else name for name in looks["keras"])
    found += [Candidate("yolo", name or KERAS_FILE, name) for name in named]
    if looks["yolo labels"] and not looks["yolo"]:
        what = f"label files such as {looks['yolo labels'][0]}"
        listed: list[str | None] = [*class_files(files, names)]
        found += [Candidate("yolo", what, file) for file in listed or [None]]
    if looks["parquet"]:
        found = [each for each in found if each.format != "json"]  # metadata.json of a curated dataset
    if form is not None:
        found = _class_folders(files, options, 1) if form == "folders" else [c for c in found if c.format == form]
    if options.annotations is not None:
        found = list({each.format: replace(each, annotations=options.annotations) for each in found}.values())
    return found or ([] if form is None else [Candidate(form, "as --format says", options.annotations)])


def _unread(files: SourceFiles) -> Iterator[str]:
    """What may be the annotations but cannot be read: other formats, archives, damaged files, JSON that is none."""
    names = files.names()
    others = _look(files, names, OTHERS)
    yield from (f"{files.path}: {found[0]} looks like {kind}" for kind, found in others.items() if found)
    for name in visible(names, ARCHIVES):
        yield f"{files.path}: {name} in it is an archive of its own; unpack it first, or delete it"
    for name in islice(visible(names, {".json", ".xml", ".yaml", ".yml", ".csv", ".txt"}), SAMPLE):
        try:
            if name.lower().endswith(".json"):
                decode_json(files, name, msgspec.Raw, "JSON")
            elif files.read(name).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                yield f"{files.path}: {name}: is in UTF-16; save the file in UTF-8"
        except UserError as error:
            yield str(error)
        except MissingFile as error:
            yield f"{files.path}: {error}"


def _look(files: SourceFiles, names: Iterable[str], looks: Looks) -> dict[str, list[str]]:
    """The files that look like each kind; read are the first SAMPLE of each folder and suffix."""
    found: dict[str, list[str]] = {kind: [] for kind in looks}
    taken: Counter[tuple[str, str]] = Counter()
    for name in visible(sorted(names), set().union(*(suffixes for suffixes, _ in looks.values()))):
        folder, suffix = name.rpartition("/")[0], PurePosixPath(name).suffix.lower()
        taken[folder, suffix] += 1
        kinds = {kind: rows for kind, (suffixes, rows) in looks.items() if suffix in suffixes}
        content = b""
        if any(kinds.values()) and taken[folder, suffix] <= SAMPLE:
            with suppress(MissingFile):
                content = files.read(name)
        for kind, rows in kinds.items():
            if not rows or any(all(re.search(p, content) for p in patterns) for patterns in rows):
                found[kind].append(name)
    return found


def _file_an_image(files: SourceFiles, form: str, described: Sequence[str]) -> Candidate | None:
    """Files of a format as one where each is called like an image."""
    images = {PurePosixPath(name).stem for name in images_below(files, "")}
    if len(described) < 2 or not images.issuperset(PurePosixPath(name).stem for name in described):
        return None
    pattern = inside(_common_folder(described), "*.json")
    return Candidate(form, f"{pattern}, a file an image", pattern)


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
    for folder in sorted({end[0] for end in ends if end}) if all(ends) else [_common_folder(described)]:
        below = sum(1 for _ in visible(files.names(), {".xml"}, folder))
        yield Candidate("voc", f"{below} XML files in {folder or '.'}", folder or ".")
    known = re.compile(r"(.*/)?ImageSets/Segmentation/(train|val|test|trainval)\.txt")
    lists = list(filter(known.fullmatch, files.names()))
    if lists and not described:
        yield Candidate("voc", f"{lists[0]} lists images", f"{lists[0].rpartition('ImageSets/')[0]}Annotations")


def _common_folder(names: Iterable[str]) -> str:
    """The folder that all of these files are in, directly or below; "" for the source itself."""
    return commonpath([name.rpartition("/")[0] for name in names])


def _pairs(files: SourceFiles, options: ImportOptions) -> list[Candidate]:
    """Images and masks, if their names pair."""
    kinds, images = find_kinds(files, options.annotations, options.images)
    what = f"{len(images)} images, {sum(map(len, kinds.values()))} masks"
    return [Candidate("masks", what, options.annotations)] if kinds else []


def _class_folders(files: SourceFiles, options: ImportOptions, least: int) -> list[Candidate]:
    """Folders of images as classes, if there are so many; wrappers around all of a source are no class."""
    folders = {name.rpartition("/")[0] for name in images_below(files, options.images or "")}
    common = commonpath(folders) if folders else ""
    if options.annotations is not None or len(folders - {common} if least > 1 else folders) < least:
        return []
    above, _, last = common.rpartition("/")
    around = above if len(folders) == 1 or split_named(last) else common
    return [Candidate("folders", f"images in {len(folders)} folders", images=around or None)]


def _try(
    files: SourceFiles, found: Iterable[Candidate], options: ImportOptions
) -> tuple[list[Candidate], dict[str, bool]]:
    """The candidates that fit; why others do not, and whether they are of the format: a table may be of anything."""
    fits, refused, names = [], {}, set(files.names())
    for candidate in found:
        try:
            stated, _, every = read_annotations(files, candidate.format, candidate.options(options))
            rows = list(islice(every, TRIED))
            if not any(row.labels or row.boxes is not None or row.counts or row.mask for row in rows):
                raise UserError(f"{files.path}: {stated[0]} states neither labels nor boxes nor masks")
            if not options.corrects and not any(is_there(row.image, names) for row in rows):
                known = (f"{value}; {REMEDIES[rule]}" for rule, value in rows[0].problems if rule in UNCLEAR)
                place = f"in {options.images}; correct --images" if options.images else "in it; add the images"
                why = next(known, f"there is no file {rows[0].image}, nor any other image {place}")
                raise UserError(f"{files.path}: none of its images is there: {why}")
            fits.append(candidate)
        except UserError as error:
            certain = candidate.format not in ("csv", "folders") and not isinstance(error, WrongFormat)
            refused[f"looks like {candidate.format} ({candidate.what}), but: {error}"] = certain
    return fits, refused
