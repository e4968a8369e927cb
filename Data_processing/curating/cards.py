"""What others read a curated dataset by: a card for people and Hugging Face, and Croissant 1.1 for programs."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from Datasets.format.cards import render_card

HERE = Path(__file__).parent
FILE = {"@type": "cr:FileObject", "encodingFormat": "application/x-parquet"}


def write_cards(out: Path, licenses: Mapping[str, str], classes: Iterable[str], parts: Mapping[str, pa.Table]) -> None:
    """Write README.md and croissant.json beside the shards. licenses: of each source, "" where none is stated."""
    name, images = ", ".join(licenses), {split: len(part) for split, part in parts.items()}
    shown = {split: pc.list_flatten(part["labels"]).to_pandas().value_counts() for split, part in parts.items()}
    values = {"name": name, "licenses": licenses, "classes": [*classes], "images": images, "shown": shown}
    (out / "README.md").write_text(render_card(HERE / "dataset_card.md", values) + "\n", encoding="utf-8")
    about = json.loads((HERE / "croissant.json").read_text("utf-8"))
    about |= {"name": name, "description": f"{sum(images.values())} images with annotations, from {name}"}
    about["license"] = sorted({each or "unknown" for each in licenses.values()})
    about["isBasedOn"] = [{"@type": "sc:Dataset", "name": each, "license": licenses[each]} for each in licenses]
    for shard in sorted(out.glob("*-of-*.parquet")):
        place, sha256 = dict.fromkeys(("@id", "name", "contentUrl"), shard.name), hashlib.sha256(shard.read_bytes())
        about["distribution"].append({**FILE, **place, "sha256": sha256.hexdigest()})
    (out / "croissant.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
