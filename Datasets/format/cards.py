"""Cards of models and datasets, in Markdown with a head in YAML that Hugging Face reads."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment


def render_card(template: Path, values: Mapping[str, Any]) -> str:
    """The card of a template, which writes values from elsewhere by `tojson` in the head, and by `cell` below it."""
    templates = Environment(trim_blocks=True, undefined=ChainableUndefined)
    templates.filters |= {"cell": _cell, "hub_license": _hub_license}
    return templates.from_string(template.read_text("utf-8")).render(values)


def _cell(value: Any) -> str:
    """A value as text in Markdown, or the cell of a table; what would be markup is escaped."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(re.sub(r"[\\|`*\[\]<>&]", r"\\\g<0>", text).split())


def _hub_license(license: str) -> str:
    """A licence as Hugging Face names it, `other` for what is no SPDX identifier."""
    plain = re.sub(r"-(only|or-later)$", "", license.lower()) or "unknown"
    return plain if re.fullmatch(r"[a-z0-9.-]+", plain) and not plain.startswith("licenseref") else "other"
