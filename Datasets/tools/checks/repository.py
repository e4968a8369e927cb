"""Is everything in git that git must have?"""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from Datasets.tools.checks.finding import Finding, some

DESCRIBED = ("params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config")
START = "git add --all && git commit --message Start"


def check(root: Path) -> Iterator[Finding]:
    """A repository, an identity, a first commit, and the files that describe the pipeline."""
    if _git(root, "rev-parse", "--show-cdup") != "":
        yield Finding("git: this folder is not the top of a repository, which DVC needs", f"git init && {START}")
        return
    if not (_git(root, "var", "GIT_AUTHOR_IDENT") and _git(root, "var", "GIT_COMMITTER_IDENT")):
        who = "git config --global user.name NAME && git config --global user.email ADDRESS"
        yield Finding("git: does not know who you are, so it commits nothing", who)
    if _git(root, "rev-parse", "--verify", "HEAD") is None:
        yield Finding("git: has no commit yet, which experiments compare with and exports name", START)
        return
    if gone := (_git(root, "ls-files", "--deleted", "--", *DESCRIBED) or "").split():
        yield Finding(f"{some(gone)}: deleted, but git still has it", f"git checkout {' '.join(gone)}")
    if missing := untracked(root):
        add = " ".join(map(shlex.quote, missing))
        yield Finding(f"{some(missing)}: not in git, so no commit and no experiment has it", f"git add --force {add}")


def untracked(root: Path) -> list[str]:
    """Parameters, stages, DVC's pointers and code that git does not have, ignored ones of the first three too."""
    tracked = set((_git(root, "ls-files", "-z") or "").split("\0"))
    others = (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    described = [root / name for name in DESCRIBED]
    described += (root / "Datasets").glob("[!.]*/*.dvc")
    names = {path.relative_to(root).as_posix() for path in described if path.is_file()} - tracked
    return sorted(names | {name for name in others if name.endswith(".py")})


def _git(root: Path, *words: str) -> str | None:
    """What a git command prints; None if it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip("\n")
