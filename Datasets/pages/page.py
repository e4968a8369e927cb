"""Writes a page: one HTML file that needs nothing else, made of the parts in this folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from Datasets.tools.atomic import write_text

PARTS = Path(__file__).parent


def write_page(template: Path, values: Mapping[str, Any], out: Path) -> None:
    """Fill a template, which extends base.html; every value is escaped, and an unknown name is an error."""
    loader = jinja2.FileSystemLoader([template.parent, PARTS])
    undefined = jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.get_template(template.name).render(values).strip() + "\n"
    write_text(out, text)
