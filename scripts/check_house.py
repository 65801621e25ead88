"""The house rules that no other linter knows: sizes, comments, names, leftovers, traces of one machine, links of pages."""

from __future__ import annotations

import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LINES_CEILING = 600
LINES_MEDIAN = 150
COMMENT_SHARE = 0.03
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Each pattern is written so that it does not match itself.
LEFTOVER = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|NotImplemented[E]rror)\b")
MACHINE = re.compile(
    r"(?<![\w./~$}-])/(?:wor[k]|far[m]|roo[t]|hom[e]/(?!\$)\w+|User[s]/\w+)/"
    r"|\b(?:py[p]i|pythonhoste[d]|npmj[s]|cond[a]|debia[n])\.(?:org|com)\b"
    r"|--(?:extra-)?inde[x]-url|--find-lin[k]s"
)

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def tracked() -> list[Path]:
    """Every file that git tracks or would track."""
    git = shutil.which("git")
    if git is None:
        sys.exit("git is needed to list the files: install it")
    command = [git, "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE)
    if listed.returncode:
        sys.exit("the house rules are checked on the files that git knows: run this in a clone")
    paths = sorted({ROOT / name for name in listed.stdout.decode().split("\0") if name})
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def text_of(path: Path) -> str | None:
    """The file as text; None when it is binary."""
    data = path.read_bytes()
    return None if b"\0" in data else data.decode(errors="replace")


def comments_in(source: str) -> int:
    """How many comments a module has; directives to tools (`# type: ignore[…]`, `# noqa: …`) are not comments."""
    found = (
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    )
    return sum(not re.match(r"#\s*(type: ignore|noqa|!)", comment) for comment in found)


def problems_of_modules(modules: dict[Path, str]) -> Iterator[str]:
    """Sizes, names, and the share of comments; `modules` are all Python files with their text."""
    for path, source in modules.items():
        lines = source.count("\n")
        if lines > LINES_CEILING:
            yield f"{path}: {lines} lines, the ceiling is {LINES_CEILING}: split it by the questions it answers"
        if path.stem in VAGUE_NAMES:
            yield f"{path}: name the module by the question it answers"
    ours = {path: source for path, source in modules.items() if path.parts[0] not in ("tests", "benchmarks")}
    sizes = [source.count("\n") for source in ours.values() if source.strip()]
    if sizes and (median := statistics.median(sizes)) > LINES_MEDIAN:
        yield f"the median module has {median:.0f} lines, more than {LINES_MEDIAN}"
    share = sum(map(comments_in, ours.values())) / max(sum(sizes), 1)
    if share > COMMENT_SHARE:
        yield f"{share:.1%} of all lines are comments, more than {COMMENT_SHARE:.0%}: keep those that say why"


def problems_of_text(path: Path, text: str) -> Iterator[str]:
    """Leftovers (outside tests) and traces of one developer's machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if path.parts[0] != "tests" and (found := LEFTOVER.search(line)):
            yield f"{path}:{number}: {found.group()} is left over: finish it, or say it in an issue"
        if found := MACHINE.search(line):
            yield f"{path}:{number}: {found.group()!r} is true of one machine only"


def anchors_in(page: str) -> set[str]:
    """What a link to a heading of the page may say, the way that GitHub makes it."""
    headings = HEADING.findall(FENCED.sub("", page))
    return {re.sub(r"[^\w\- ]", "", LINK.sub("]", heading).lower()).replace(" ", "-") for heading in headings}


def problems_of_links(page: Path, texts: dict[Path, str]) -> Iterator[str]:
    """Links of a page that lead to no file, or to no heading of one."""
    for target, anchor in LINK.findall(FENCED.sub("", texts[page])):
        where = Path(os.path.normpath(page.parent / target)) if target else page
        if not (ROOT / where).exists():
            yield f"{page}: links to {target}, which is not there"
        elif anchor and where in texts and anchor not in anchors_in(texts[where]):
            yield f"{page}: links to {target}#{anchor}, and there is no such heading"


def main() -> None:
    """Exit with every problem named, or silently."""
    texts = {path.relative_to(ROOT): text for path in tracked() if (text := text_of(path)) is not None}
    modules = {path: text for path, text in texts.items() if path.suffix == ".py"}
    problems = [*problems_of_modules(modules)]
    for path, text in texts.items():
        problems += problems_of_text(path, text)
        if path.suffix == ".md":
            problems += problems_of_links(path, texts)
    if problems:
        sys.exit("\n".join(problems))
    sys.stdout.write(f"house: {len(modules)} modules, {len(texts)} files\n")


if __name__ == "__main__":
    main()
