"""The import closure is found by reading: at any depth of the code, through packages, and not beyond the project."""

from pathlib import Path

from Datasets.format.import_closure import import_closure


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_closure_has_direct_and_indirect_imports_of_every_form(tmp_path):
    write(
        tmp_path,
        {
            "room/__init__.py": "",
            "room/main.py": "import os\nimport numpy\nfrom room import first\nimport room.second as s\n",
            "room/first.py": "def f():\n    from .third import x\n",
            "room/second.py": "from room.main import y\n",
            "room/third.py": "",
            "room/unused.py": "",
        },
    )
    found = [path.as_posix() for path in import_closure([Path("room/main.py")], tmp_path)]
    assert found == ["room/__init__.py", "room/first.py", "room/main.py", "room/second.py", "room/third.py"]
