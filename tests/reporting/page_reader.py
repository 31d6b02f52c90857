"""A strict HTML parser for tests: every element must be closed, and in order."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

VOID = {"meta", "wbr", "img", "source", "br", "hr"}


class Element:
    def __init__(self, name: str, attributes: dict[str, str | None]) -> None:
        self.name, self.attributes = name, attributes
        self.children: list[Element] = []
        self.words: list[str] = []

    @property
    def text(self) -> str:
        return " ".join(" ".join([*self.words, *(child.text for child in self.children)]).split())

    def all(self, predicate: Callable[[Element], bool]) -> list[Element]:
        matches = [self] if predicate(self) else []
        return matches + [match for child in self.children for match in child.all(predicate)]

    def named(self, name: str) -> list[Element]:
        return self.all(lambda element: element.name == name)

    def classed(self, name: str) -> list[Element]:
        return self.all(lambda element: name in (element.attributes.get("class") or "").split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes {self.open[-1].name}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].words.append(data)


def read(page: str) -> Element:
    """The document; fails if it is not well-formed."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert [element.name for element in reader.open] == ["document"]
    return reader.open[0]
