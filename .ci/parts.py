"""For every commit that adds one part: the files that it changed outside the part's room. The number wanted is 0.

Such a commit says "Part: cdjax/ROOM" in its message. Its room is that folder, and its test is a new file in tests/; the
room's `__init__.py` gains one line. Prints a line a commit, and exits with 1 if any changed more.

    python .ci/parts.py
"""

import subprocess
import sys


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def outside(commit: str, room: str) -> list[str]:
    """What the commit changed that adding a part does not need: everything but one new file, its test and one line."""
    changed = [line.split("\t") for line in git("show", "--format=", "--name-status", commit).splitlines()]
    new = [path for status, path in changed if status == "A"]
    parts = [path for path in new if path.startswith(f"{room}/")]
    tests = [path for path in new if path.startswith("tests/test_")]
    registry = f"{room}/__init__.py"
    lines = git("show", "--format=", "--numstat", commit, "--", registry).split()[:2]
    allowed = {*parts[:1], *tests[:1], *([registry] if lines == ["1", "0"] else [])}
    return [path for _, path in changed if path not in allowed]


def main() -> int:
    total = 0
    for line in git("log", "--reverse", "--format=%h\t%s\t%(trailers:key=Part,valueonly,separator=%x2C)").splitlines():
        commit, title, room = line.split("\t")
        if not room:
            continue
        files = outside(commit, room)
        total += len(files)
        print(f"{commit} {title} ({room}): {len(files)} files outside {' '.join(files)}".rstrip())
    print(f"files changed outside the parts' rooms: {total}")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
