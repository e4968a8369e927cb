"""The project's git repository, as the experiment log needs it: commits, and what stands in their way."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from Datasets.tools.errors import UserError

UNDERWAY = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}


def git(root: Path, *words: str) -> str:
    """What a git command prints. Raises UserError with git's own reason if it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("git: not found; install it") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"git {words[0]}: {_reason(words[0], said)}")
    return done.stdout.decode("utf-8", errors="replace")


def _reason(command: str, said: Sequence[str]) -> str:
    """Git's own reason; where it gives none for a commit, what the hook said, of pre-commit the hooks that failed."""
    failed = [line for line in said if command == "commit" and line.endswith("Failed")]
    own = [line for line in said if line.startswith(("fatal: ", "error: "))]
    if own and not failed:
        return own[0].removeprefix("fatal: ").removeprefix("error: ")
    hook = ["a git hook refused it; once mended, the same command goes on"] if command == "commit" else []
    return "; ".join([*(failed or said), *hook])


def check_ready(root: Path) -> None:
    """Raises UserError if no commit can be made here now: no repository, branch or identity, or a merge underway."""
    git(root, "rev-parse", "--git-dir")
    for name, what in UNDERWAY.items():
        if (root / git(root, "rev-parse", "--git-path", name).strip()).exists():
            raise UserError(f"git: a {what} is underway; finish it, or `git {what} --abort`")
    try:
        git(root, "symbolic-ref", "--quiet", "HEAD")
    except UserError:
        raise UserError("git: HEAD is detached: no branch would have the results; `git switch -c NAME`") from None
    try:
        git(root, "var", "GIT_AUTHOR_IDENT")
        git(root, "var", "GIT_COMMITTER_IDENT")
    except UserError:
        raise UserError(
            "git: does not know who you are; `git config --global user.name NAME`, and user.email likewise"
        ) from None


def untracked(root: Path) -> list[str]:
    """Files that git neither has nor ignores."""
    return [name for name in git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0") if name]


def changed(root: Path) -> bool:
    """Whether a tracked file differs from the last commit, or there is none yet."""
    return not has_commit(root) or bool(git(root, "status", "--porcelain", "--untracked-files=no"))


def has_commit(root: Path) -> bool:
    """Whether there is a commit."""
    return bool(git(root, "rev-list", "--all", "--max-count=1").strip())


def commit_all(root: Path, new: Sequence[str], message: str) -> None:
    """Commit all tracked files as they are, and those of `new`; a commit without a change is one too."""
    if new:
        git(root, "add", "--", *new)
    git(root, "add", "--update", "--", ".")
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)


def commit_only(root: Path, files: Sequence[str], message: str) -> str:
    """Commit these files alone, whatever else has changed, and return the commit's short hash."""
    if files:
        git(root, "add", "--", *files)
    git(root, "commit", "--quiet", "--allow-empty", "--only", "--message", message, "--", *files)
    return git(root, "rev-parse", "--short", "HEAD").strip()


def subject(root: Path) -> str:
    """The first line of the last commit's message; empty without a commit."""
    return git(root, "log", "-1", "--format=%s").strip() if has_commit(root) else ""
