"""What `docker build` makes of a bundle, made without Docker: its Dockerfile done step by step in a directory."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Image:
    """What a Dockerfile makes: a directory for its WORKDIR, a Python for its own."""

    directory: Path
    python: Path
    environment: dict[str, str]
    instructions: dict[str, str]

    def words(self, instruction: str) -> list[str]:
        """A command in the Dockerfile's exec form."""
        return json.loads(self.instructions[instruction][self.instructions[instruction].index("[") :])


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes of every file in a directory, by its name there."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def built(bundle: Path, base: Path) -> Image:
    """The image of a bundle, in the directory `base`; this Python's pip fills the environment `venv`, if there is
    one."""
    made = Image(base / "srv", base / "venv/bin/python", {"PATH": f"{base}/venv/bin:/usr/bin:/bin"}, {})
    text = (bundle / "Dockerfile").read_text().replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        made.instructions[instruction] = rest
        match instruction:
            case "ENV":
                made.environment |= dict(pair.split("=") for pair in rest.split())
            case "WORKDIR":
                made.directory.mkdir()
            case "COPY":
                _copy(bundle, rest.split(), made.directory)
            case "RUN" if "pip" not in rest or made.python.exists():
                ours = rest.replace(
                    "python -m pip install", f"'{sys.executable}' -m pip --python '{made.python}' install --no-compile"
                )
                run = subprocess.run(ours, shell=True, cwd=made.directory, env=made.environment, capture_output=True)
                if run.returncode:
                    assert "pip" in rest, run.stderr.decode()
                    pytest.skip(f"pip reaches no package index: {run.stderr.decode().strip().splitlines()[-1]}")
            case _:
                assert instruction in ("FROM", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    return made


def _copy(bundle: Path, words: list[str], target: Path) -> None:
    """Do a COPY: all but what .dockerignore names, with the modes that they have."""
    source, where = words
    assert where == "./" or source == where == "."
    left_out = _left_out((bundle / ".dockerignore").read_text())
    for path in sorted(bundle.rglob("*") if source == "." else [bundle / source]):
        name = path.relative_to(bundle).as_posix()
        if not left_out.fullmatch(name):
            if path.is_dir():
                (target / name).mkdir(exist_ok=True)
            else:
                shutil.copyfile(path, target / name)
            (target / name).chmod(path.stat().st_mode)


def _left_out(dockerignore: str) -> re.Pattern[str]:
    """The paths that Docker leaves out: those that a line fits, and all below them; **/ stands for no folder, too.

    Lines of this form only: NAME, NAME/NAME, **/NAME.
    """
    lines = dockerignore.split()
    assert all(re.fullmatch(r"(\*\*/)?[\w.][\w./-]*", line) for line in lines)
    return re.compile("(" + "|".join(re.escape(line).replace(r"\*\*/", "(.*/)?") for line in lines) + ")(/.*)?")
