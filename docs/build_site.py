"""Hooks of mkdocs (`mkdocs.yml`): pages outside docs/, links between them, and the generated parts of the reference.

Pages are written for the repository: their links are relative paths, also to README, ports and results. The site has
a copy of every file that a page links to, and links lead to the copies, so that `mkdocs build --strict` checks them.
"""

import ast
import contextlib
import html
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Pages outside docs/ whose place in the site differs from that in the repository.
PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
}
FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
HELP_WIDTH = "100"


def place(path: str) -> str:
    """The place in the site of a file of the repository, both with `/`."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PLACES.get(path, re.sub(r"^ports/(\w+)/README\.md$", r"ports/\1.md", path))


def split_code(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a page in order, and whether each is a code block."""
    start = 0
    for fence in FENCE.finditer(text):
        yield text[start : fence.start()], False
        yield fence[0], True
        start = fence.end()
    yield text[start:], False


def links_of(path: str, text: str) -> Iterator[str]:
    """The files of the repository to which a page links."""
    for part, is_code in split_code(text):
        if not is_code:
            for link in LINK.finditer(part):
                yield posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))


def rewrite_links(path: str, text: str) -> str:
    """The page with links that are relative to its place in the site."""

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        relative = posixpath.relpath(place(target), posixpath.dirname(place(path)) or ".")
        return f"]({relative}{link[2] or ''})"

    return "".join(part if is_code else LINK.sub(rewritten, part) for part, is_code in split_code(text))


def linked_files(pages: list[str]) -> list[str]:
    """The pages, and all files outside docs/ that they link to, also through other pages; existing ones only."""
    reached, waiting = set(pages), list(pages)
    while waiting:
        path = waiting.pop()
        if path.endswith(".md"):
            for target in links_of(path, (ROOT / path).read_text(encoding="utf-8")):
                if target not in reached and (ROOT / target).is_file():
                    reached.add(target)
                    waiting.append(target)
    return sorted(reached)


def commands_page() -> str:
    """The help of `r2t2` and of every command, as the program prints it."""
    from r2t2_jax.cli.main import COMMANDS

    parts = [f"## r2t2\n\n```text\n{help_of([])}\n```\n"]
    parts += [f"## r2t2 {name}\n\n```text\n{help_of(name.split())}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


def help_of(words: list[str]) -> str:
    """What `r2t2 WORDS --help` prints."""
    from r2t2_jax.cli.main import COMMANDS
    from r2t2_jax.cli.parsing import parse

    printed, earlier = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = HELP_WIDTH
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parse(COMMANDS, [*words, "--help"])
    finally:
        if earlier is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = earlier
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def errors_page() -> str:
    """A table for each package: the text of every error that its code raises, and the file."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for folder in ("r2t2_jax", "ports"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            package = "/".join(name.split("/")[:2])
            for message in errors_of(ast.parse(path.read_text(encoding="utf-8"))):
                rows.setdefault(package, []).append((message, name))
    parts = []
    for package, messages in rows.items():
        lines = [f"| {cell(message)} | `{name}` |" for message, name in dict.fromkeys(messages)]
        parts.append("\n".join([f"## {package}\n", "| message | raised in |", "|---|---|", *lines, ""]))
    return "\n".join(parts)


def errors_of(tree: ast.AST) -> Iterator[str]:
    """The texts of `raise R2T2Error(text)` and `raise UsageError(text)`, with <name> for what is put in."""
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("R2T2Error", "UsageError") and call.args:
            text = message_of(call.args[0])
            if re.search(r"[a-z]{3}", re.sub(r"<[^>]*>", "", text)):
                yield text


def message_of(node: ast.expr) -> str:
    """The text of a literal, an f-string or a sum of both; <name> for everything else."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message_of(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return message_of(node.left) + message_of(node.right)
    names = [part.attr if isinstance(part, ast.Attribute) else part.id for part in ast.walk(node)
             if isinstance(part, ast.Attribute | ast.Name)]  # fmt: skip
    return f"<{names[0] if names else 'value'}>"


def cell(text: str) -> str:
    """A text as a table cell that shows it letter by letter."""
    escaped = html.escape(" ".join(text.split()))
    inert = re.sub(r"[|*_`~$\[\]{}]", lambda letter: f"&#{ord(letter[0])};", escaped)
    return f"<code>{inert}</code>"


GENERATED: dict[str, Callable[[], str]] = {"commands": commands_page, "errors": errors_page}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside docs/ and what pages link to (event of mkdocs)."""
    from mkdocs.structure.files import File

    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path in linked_files([*PLACES, *pages]):
        if not path.startswith("docs/"):
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to the site's copies, and fill in the generated parts (event of mkdocs)."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    text = rewrite_links(source, markdown)
    for name, generate in GENERATED.items():
        marker = f"<!-- generated: {name} -->"
        if marker in text:
            text = text.replace(marker, generate())
    return text
