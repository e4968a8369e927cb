"""Every command of the tutorial, in the order in which a reader types them, in one shell, with images of one's own."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.template.conftest import AUTHOR, ROOT, environment
from tests.template.Data_processing.sources import pack, picture, write_voc
from tests.template.test_project import commit, git, write_checkout

TUTORIAL = (ROOT / "docs/TUTORIAL.md").read_text(encoding="utf-8")
QUICK = {  # instead of what the tutorial trains, which takes minutes
    "experiments": {
        "e001": {"init": "random", "train": {"size": 64, "epochs": 1, "threads": 1}, "model": {"backbone": "tiny"}}
    }
}
# an environment like the one that make would install, which is the tests' own
INSTALLED = "mkdir -p raccoons/.venv/bin && touch raccoons/.venv/installed raccoons/.venv/bin/activate"
MERGE = """
import json, sys
from ruamel.yaml import YAML
def merge(into, what):
    for key, value in what.items():
        merge(into[key], value) if isinstance(value, dict) else into.update({key: value})
yaml = YAML()
with open("params.yaml", encoding="utf-8") as file:
    params = yaml.load(file)
merge(params, json.loads(sys.argv[1]))
with open("params.yaml", "w", encoding="utf-8") as file:
    yaml.dump(params, file)
"""


def script(template: Path, port: int) -> list[str]:
    """The commands, with REPOSITORY and the port replaced, and a quick training."""
    lines = ["set -e"]
    for block in re.findall(r"^```console\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        lines += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    lines.insert(2, INSTALLED)
    training = next(number for number, line in enumerate(lines) if "experiment run" in line)
    lines.insert(training, f"python -c {shlex.quote(MERGE)} {shlex.quote(json.dumps(QUICK))}")
    return [line.replace("REPOSITORY", shlex.quote(str(template))).replace("8000", str(port)) for line in lines]


@pytest.fixture
def home(tmp_path) -> Path:
    """A home folder with the delivery, in Pascal VOC's form."""
    home = tmp_path / "Ann Müller"
    boxes = {f"raccoon-{n}.png": [("raccoon", 5 + n % 20, 4, 30 + n % 20, 36)] for n in range(40)}
    (home / "Downloads").mkdir(parents=True)
    pack(write_voc(tmp_path / "delivery", boxes), home / "Downloads/raccoon.zip")
    (home / "Downloads/raccoon.jpg").write_bytes(picture(99))
    return home


def test_every_command_works_as_written(tmp_path, home):
    template = tmp_path / "template"
    write_checkout(template)
    git(template, "init", "-q")
    commit(template, "v1.0.0")
    git(template, "gc", "-q")  # copier looks at each file in .git, too
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    used = environment(**AUTHOR, HOME=str(home), PIP_NO_INDEX="1")
    command = ["bash", "-xc", "\n".join(script(template, port))]
    with (tmp_path / "said").open("w") as file:
        shell = subprocess.Popen(
            command, cwd=home, env=used, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            shell.wait(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # the service, too, if it did not come to `kill`
            said = (tmp_path / "said").read_text(encoding="utf-8")
            print(said[-3000:])
    assert shell.returncode == 0
    for part in ("has no source yet", "classes  raccoon 40", "e001.1 is done", '"counts":', "no problems found"):
        assert part in said
    project = home / "raccoons"
    assert git(project, "status", "--porcelain") == ""
    assert (project / "Deployment/bundles/e001.verification.json").is_file()
    assert list((home / "fourfold-store").rglob("*"))
