"""The files with which a bundle runs in containers, made of the templates in container_files.

In all of them the service runs as a user without rights, on a read-only file system, with limits, and is asked for its
health. $name stands for the experiment in the form of a DNS label, $python for the version of Python.
"""

import platform
import re
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parents[1] / "container"
FILES = {name: name.removeprefix(".") for name in ("Dockerfile", ".dockerignore", "compose.yaml", "kubernetes.yaml")}


def container_files(experiment: str) -> dict[str, str]:
    """Each file's text by its name. The Python is the one that runs here, whose packages requirements.txt names."""
    label = re.sub(r"[^a-z0-9]+", "-", f"fourfold-{experiment}".lower())[:63].strip("-")
    python = ".".join(platform.python_version_tuple()[:2])
    texts = {name: (TEMPLATES / template).read_text(encoding="utf-8") for name, template in FILES.items()}
    return {name: Template(text).substitute(name=label, python=python) for name, text in texts.items()}
