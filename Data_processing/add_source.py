"""Add a raw dataset as a source: recognise its format, try the import, copy it to Datasets/raw, version it, list it.

    python -m Data_processing.add_source raccoon ~/Downloads/raccoon.zip

All happens or nothing: if a step fails or is interrupted, the steps before it are undone. What is in Datasets/raw
already stays where it is; in params.yaml and dvc.yaml, all else stays to the byte.
"""

import gc
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from Data_processing import import_source
from Data_processing.adding import project
from Data_processing.adding.recognise import Candidate, recognise
from Data_processing.curating.duplicates import COPIES, with_copies
from Data_processing.readers.masks import find_one
from Data_processing.shared.files import SourceFiles, images_below, is_there, open_source
from Data_processing.shared.imported import About, Imported, ImportOptions, in_words, write_imported
from Data_processing.shared.mask_values import Names, table
from Datasets.format.classes import ClassRules
from Datasets.format.proposal import propose
from Datasets.tools.atomic import editing
from Datasets.tools.command import run, with_options
from Datasets.tools.errors import UserError
from Datasets.tools.params import as_yaml, check_licenses, with_entry, written_entry

PARAMS, PIPELINE = Path("params.yaml"), Path("dvc.yaml")
FORMATS = ", ".join(import_source.formats())


def open_project(name: str) -> project.Params:
    """The project's parameters. Raises UserError if this is no project with DVC, or the name is taken or no name."""
    import_source.check_source_name(name)
    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()}: DVC is not initialised here; `dvc init` does that, in a git repository")
    params = project.load_params(PARAMS)
    if params.sources is None:
        raise UserError(f"{PARAMS}: sources: has no entry, which DVC cannot read; write `sources: {{}}`")
    if name in params.sources:
        raise UserError(f"{PARAMS}: sources has {name!r} already; choose another name, or delete that entry")
    return params


@dataclass
class Summary:
    """What a whole source states. problems: of each rule, how many, and the first place and value."""

    records: int = 0
    found: int = 0
    first_missing: str = ""
    named: set[str] = field(default_factory=set)  # images and masks
    empty: int = 0  # images with nothing on them, as far as is stated
    boxes: int = 0
    labels: bool = False
    classes: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    sides: list[float] = field(default_factory=list)  # the longer one of each image, in pixels
    objects: list[float] = field(default_factory=list)  # the size of each, as a share of that side
    folder: str | None = ""
    masks: dict[str, Names] = field(default_factory=dict)  # what the values in each mean

    def watch(self, rows: Iterable[Imported], names: set[str]) -> Iterator[Imported]:
        """The rows, as they pass by. names: of all files of the source."""
        for row in rows:
            self.records += 1
            there = is_there(row.image, names)
            self.found += there
            self.first_missing = self.first_missing or ("" if there else row.image)
            self.named.update(filter(None, (row.image, row.mask)))
            stated = [part for part in (row.boxes, row.counts, row.labels) if part is not None]
            self.empty += bool(stated) and not any(stated) and row.mask is None
            self.boxes += len(row.boxes or ())
            self.labels |= bool(row.labels)
            self.splits.update([row.split] if row.split else [])
            drawn = Counter(box.name for box in row.boxes or ())
            counted = Counter({count["name"]: count["count"] for count in row.counts or ()})
            self.classes.update(drawn | counted | Counter({*(row.labels or ())}))
            if row.mask is not None:
                self.masks[row.mask] = row.mask_names or {}
                self.classes.update(dict.fromkeys(filter(None, self.masks[row.mask].values()), 0))
            side = 1 if row.normalized else max(row.width or 0, row.height or 0)
            self.sides += [side] if side > 1 else []
            areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in row.boxes or () if side]
            self.objects += [max(0.0, area) ** 0.5 / side for area in areas]
            for rule, value in row.problems:
                number, first = self.problems.get(rule, (0, f"{row.origin}: {value}"))
                self.problems[rule] = number + 1, first
            yield row


def try_import(files: SourceFiles, name: str, form: str, options: ImportOptions) -> Summary:
    """Import the whole source into a temporary file, as the import stage would, and return what it states."""
    held = Summary()
    files.matched.clear()  # of other formats that were tried
    _, held.folder, rows = import_source.read_annotations(files, form, options)
    with tempfile.TemporaryDirectory() as directory:
        watched = held.watch(import_source.check_paths(rows, held.left_out), set(files.names()))
        write_imported(watched, name, Path(directory, "records.parquet"), About("", held.folder, options))
    return held


def ask(question: str, answers: Sequence[str], option: str) -> int:
    """The number of the answer chosen, from 0. Raises UserError where there is no terminal to ask on."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(f"{question} {', '.join(answers[:10])}; answer with {option}")
    print(question)
    for number, answer in enumerate(answers, 1):
        print(f"  {number}  {answer}")
    while not 1 <= (chosen := int(typer.prompt("number", type=int))) <= len(answers):
        print(f"one of 1 to {len(answers)}")
    return chosen - 1


def entry_of(form: str, path: Path, options: ImportOptions) -> dict[str, Any]:
    """The source's entry in params.yaml."""
    entry = {"format": form, "path": path.as_posix(), **asdict(options)}
    entry["images"] = "." if options.images == "" else options.images
    entry["columns"] = [f"{ours}={theirs}" for ours, theirs in options.columns.items()]
    return {key: value for key, value in entry.items() if value not in (None, [], ())}


def show(path: Path, found: Candidate, held: Summary, files: SourceFiles) -> None:
    """Print what was found."""
    missing = f"; the first that is not there: {held.first_missing}" if held.first_missing else ""
    print(f"{path}: {found.format}: {found.what}")
    print(f"  records  {held.records}")
    others = [] if held.folder is None else [n for n in images_below(files, held.folder) if n not in held.named]
    empty = f"; {held.empty} with nothing on them" if held.empty else ""
    left = f"; {len(others)} others, such as {others[0]}, have no annotation" if others else ""
    print(f"  images   {held.found} found, below {held.folder or '.'}{empty}{left}{missing}")
    print(f"  boxes    {held.boxes}{f', and {len(held.masks)} masks' if held.masks else ''}")
    print(f"  classes  {_counts(dict(held.classes.most_common(30)))}{' …' if len(held.classes) > 30 else ''}")
    for line in table(files, held.masks):
        print(f"    {line}")
    if found.format != "masks" and not held.masks and (mask := find_one(files, "")):
        print(f"  masks    not read, such as {mask}; --format masks reads them instead")
    print(f"  splits   {_counts(held.splits)}{'' if held.splits else ' stated'}")
    if held.left_out:
        print(f"  left out {in_words(held.left_out)}")
    print(f"  problems {'' if held.problems else 'none'}")
    for rule, (number, first) in held.problems.items():
        print(f"    {number} {rule}; the first: {first:.200}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" if count else name for name, count in counts.items()) or "none"


def advise(held: Summary, rules: ClassRules, curate: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print what params.yaml could say for what a source states. curate: its section. names: of the source's files."""
    left_out = project.not_kept(rules, held.classes)
    nearly = {name: rules.meant(name) or rules.name(name.casefold().removesuffix("es")) for name in left_out}
    alike = {name: kept for name, kept in nearly.items() if kept and rules.keep}
    if alike:
        renamed = as_yaml([f"{old}={new}" for old, new in {**rules.rename, **alike}.items()])
        print(f"called nearly as in clean.keep: {', '.join(alike)}; to take them for the same: `rename: {renamed}`")
    if others := [name for name in left_out if name not in alike]:
        print(f"not in clean.keep, so left out as it stands: {', '.join(others)}")
        keep = as_yaml([*rules.keep, *others])
        print(f"  with them: `keep: {keep}`; classes that no source has must not be in it")
    if held.splits and not curate.get("keep_splits"):
        print("its splits are not kept as it stands; to keep them: `keep_splits: true` in curate")
    if better := with_copies(curate.get("group_pattern") or "", names):
        print(f"{COPIES}; to keep these together: `group_pattern: {as_yaml(better)}`")


def add_source(name: str, path: Path, form: str | None, given: ImportOptions, dry_run: bool) -> None:
    """Recognise, try, print, and unless `dry_run`, add. Raises UserError, nothing having changed."""
    params = open_project(name)
    allowed = (params.licenses or {}).get("allow") or []
    check_licenses({f"source {name}": given.license or ""}, allowed)
    if unknown := {*given.corrects}.difference(params.sources or ()):
        raise UserError(f"--corrects {min(unknown)}: {PARAMS} has no such source")
    rules = project.class_rules(PARAMS)  # errors there are better known before anything is added
    target = project.target_of(name, path)
    project.check_links(path)
    files = open_source(path)
    found, options = recognise(files, given, form, ask)
    held = try_import(files, name, found.format, options)
    show(path, found, held, files)
    if files.matched:
        stated, meant = next(iter(files.matched.items()))
        print(f"  names    matched approximately: {len(files.matched)}, such as {meant} for {stated}")
    if files.unclear:
        print(f"  names    of unstated encoding, such as {files.unclear}: may be others; pack the files in UTF-8")
    entry = entry_of(found.format, target, options)
    if not dry_run:
        print(f"dvc add {target}, where {'it lies' if target.exists() else 'a copy goes'}", flush=True)
        with editing(PARAMS), editing(PIPELINE):
            listed = with_entry(PARAMS, "sources", name, entry)
            project.add(path, target, {PARAMS: listed, PIPELINE: project.with_dependencies(PIPELINE, name)})
    print(f"{PARAMS}: sources {'would get' if dry_run else 'has got'}\n{written_entry(name, entry)}", end="")
    advise(held, rules, params.curate or {}, files.names())
    if dry_run:
        print("nothing was changed")
    else:
        print(f"next: `dvc repro report`, and `git add {PARAMS} {PIPELINE} {project.pointer_of(target)}`")
    tasks = {"boxes": held.boxes, "mask": held.masks, "labels": held.labels and not held.boxes}
    for task in filter(tasks.get, tasks):
        proposed = propose(round(0.7 * held.found), held.sides, held.objects, held.classes)
        mirrored = "flip, unless a mirror changes what the images show" if proposed.flip else "no flip"
        print(f"to learn {task}: size {proposed.size}, batch {proposed.batch}, {proposed.epochs} epochs, {mirrored}")
        print(f"  0 in params.yaml means these; `python -m Models.experiment new --for {task}` writes an experiment")


@with_options(import_source.PARAMETERS)
def main(
    name: Annotated[str, typer.Argument(help="what to call the source")],
    path: Annotated[Path, typer.Argument(help="the raw dataset: a directory, .zip or .tar")],
    format: Annotated[str | None, typer.Option(help=f"if several fit: {FORMATS}, datumaro:NAME")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print what would be done")] = False,
    **options: Any,
) -> None:
    """Recognise a raw dataset, put it into Datasets/raw under DVC's control, and list it in params.yaml."""
    gc.disable()  # as in import_source.py
    form, _, named = (format or "").partition(":")  # Datumaro's own name of a format stands behind a colon
    if form or named:
        import_source.find_reader(form)
    of_table = (options["preset"] and not form) or options["normalized"] is not None
    of_table = of_table or any(options[name] for name in ("columns", "delimiter", "label_separator"))
    of_masks = options["instances"] or options["ignore"] is not None
    form = form or ("csv" if of_table else "masks" if of_masks else "")
    options["preset"] = options["preset"] or named or None
    given = import_source.make_options(form, options)
    try:
        add_source(name, path, form or None, given, dry_run)
    except (KeyboardInterrupt, SystemExit):
        print("interrupted: nothing was added", file=sys.stderr)
        raise


if __name__ == "__main__":
    run(main)
