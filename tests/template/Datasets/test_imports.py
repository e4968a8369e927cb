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
            "code/__init__.py": "",
            "code/main.py": "import os\nimport numpy\nfrom code import first\nimport code.second as s\n",
            "code/first.py": "def f():\n    from .third import x\n",
            "code/second.py": "from code.main import y\n",
            "code/third.py": "",
            "code/unused.py": "",
        },
    )
    found = [path.as_posix() for path in import_closure([Path("code/main.py")], tmp_path)]
    assert found == ["code/__init__.py", "code/first.py", "code/main.py", "code/second.py", "code/third.py"]
