"""Installed Debian documentation packages -> clean English text, split by page.

The pages come from packages under permissive licences or in the public domain, so a checkpoint
trained on them may be shipped. Order and split depend on the page paths alone, so that two
machines with the same packages train on the same text.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

HELD_OUT_ONE_IN = 50  # about 2 % of the pages
HELD_OUT_LICENCE_SOURCE = "sqlite3-doc"  # public domain: its held-out text may be shipped anywhere


@dataclass(frozen=True)
class Source:
    """One documentation package; `skip` matches relative page paths that are not prose."""

    package: str
    licence: str
    root: Path
    pages: tuple[str, ...]
    skip: re.Pattern[str]

    def version(self) -> str:
        """The installed version, as dpkg reports it."""
        query = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()


DOC = Path("/usr/share/doc")
SOURCES = (
    Source(
        "python3.11-doc",
        "PSF-2.0",
        DOC / "python3.11/html",
        ("**/*.html",),
        # The changelog is one line per bug; the indexes are lists of names.
        re.compile(r"genindex|modindex|search|changelog|contents\.html|^download|^_static"),
    ),
    Source(
        "postgresql-doc-15",
        "PostgreSQL",
        DOC / "postgresql-doc-15/html",
        ("*.html",),
        re.compile(r"bookindex|^biblio|^features|^errcodes|sql-keywords|^release|acknowledg"),
    ),
    Source(
        "sqlite3-doc",
        "public domain",
        DOC / "sqlite3",
        ("*.html", "c3ref/*.html", "releaselog/*.html", "syntax/*.html"),
        re.compile(r"^(keyword_index|sitemap|doclist|toc|chronology|changes|matrix|news)\b"),
    ),
    Source(
        "rust-doc",
        "MIT or Apache-2.0",
        DOC / "rust-doc/html",
        # Not the embedded-book beside them: its prose is under CC-BY-SA 4.0.
        tuple(
            f"{book}/**/*.html"
            for book in (
                "book",
                "nomicon",
                "reference",
                "rust-by-example",
                "edition-guide",
                "rustc",
                "rustdoc",
            )
        ),
        # print.html repeats a whole book on one page.
        re.compile(r"print\.html|toc\.html|book/(first|second|2018)-edition|title-page"),
    ),
)

SKIPPED_TAGS = frozenset(
    {
        "head",
        "script",
        "style",
        "nav",
        "footer",
        "table",
        "svg",
        "button",
        "select",
        "form",
        "noscript",
        "math",
        "textarea",
    }
)
SKIPPED_CLASSES = frozenset(
    {
        "related",
        "sphinxsidebar",
        "footer",
        "headerlink",
        "navheader",
        "navfooter",
        "toc",
        "sidebar",
        "menu",
        "searchmenu",
        "mobileonly",
        "desktoponly",
        "tagline",
        "rightsidebar",
        "nosearch",
        "boring",
        "buttons",
        "linenos",
        "fancy-toc",
    }
)
BLOCK_TAGS = frozenset(
    {
        "p",
        "li",
        "dt",
        "dd",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "div",
        "ul",
        "ol",
        "dl",
        "blockquote",
        "section",
        "article",
        "main",
        "body",
        "br",
        "hr",
    }
)
ASCII_FORMS = str.maketrans(
    {
        "\xa0": " ",
        "\xad": None,
        "\u200b": None,
        "\ufeff": None,
        "\u00b6": None,
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2010": "-",
        "\u2011": "-",
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "\u2192": "->",
        "\u2212": "-",
        "\u2265": ">=",
        "\u2264": "<=",
        "\u00d7": "x",
    }
)
MIN_REPEATED_CHARS = 60  # shorter paragraphs ("New in version 3.2.") may repeat across pages
MAX_PARAGRAPH_CHARS = 6000  # longer ones are listings
MAX_NAMES_IN_A_ROW = 3  # a longer run of one-word paragraphs is an index of names


class PageText(HTMLParser):
    """Collects a page's paragraphs, each without a blank line inside."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self.parts: list[str] = []
        self.skipped_tag = ""
        self.skip_depth = 0
        self.pre_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.skip_depth:
            self.skip_depth += tag == self.skipped_tag
            return
        values = dict(attrs)
        classes = (values.get("class") or "").lower().split()
        if tag in SKIPPED_TAGS or not SKIPPED_CLASSES.isdisjoint(classes):
            self.skipped_tag, self.skip_depth = tag, 1
        elif tag == "pre":
            self.flush()
            self.pre_depth += 1
        elif tag == "br" and self.pre_depth:
            self.parts.append("\n")
        elif tag in BLOCK_TAGS:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if self.skip_depth:
            self.skip_depth -= tag == self.skipped_tag
        elif tag == "pre":
            self.flush()
            self.pre_depth = max(0, self.pre_depth - 1)
        elif tag in BLOCK_TAGS:
            self.flush()

    def handle_data(self, data: str) -> None:
        if not self.skip_depth:
            self.parts.append(data)

    def flush(self) -> None:
        text = "".join(self.parts).translate(ASCII_FORMS)
        self.parts.clear()
        if self.pre_depth:
            lines = [line.rstrip() for line in text.expandtabs(4).split("\n")]
            text = "\n".join(line for line in lines if line)
        else:
            text = " ".join(text.split())
        if is_readable(text):
            self.paragraphs.append(text)


def is_readable(paragraph: str) -> bool:
    """Mostly ASCII, mostly words, and not a page-long listing."""
    n_chars = len(paragraph)
    if n_chars < 2 or n_chars > MAX_PARAGRAPH_CHARS:
        return False
    n_ascii = sum(char.isascii() for char in paragraph)
    n_word = sum(char.isalpha() or char == " " for char in paragraph)
    return n_ascii >= 0.97 * n_chars and n_word >= 0.6 * n_chars


def without_name_lists(paragraphs: list[str]) -> Iterator[str]:
    """All paragraphs but those in long runs of single words."""
    for is_name, run in itertools.groupby(paragraphs, lambda text: len(text.split()) == 1):
        group = list(run)
        if not is_name or len(group) <= MAX_NAMES_IN_A_ROW:
            yield from group


def page_text(html: str) -> str:
    """The readable paragraphs of one page, separated by blank lines."""
    parser = PageText()
    parser.feed(html)
    parser.close()
    parser.flush()
    return "\n\n".join(without_name_lists(parser.paragraphs))


def is_held_out(package: str, path: str) -> bool:
    digest = hashlib.sha256(f"{package}/{path}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Document:
    """One page, cleaned."""

    package: str
    path: str
    text: str
    held_out: bool


def documents() -> Iterator[Document]:
    """Every page of every source, held-out pages first, then in path order.

    A long paragraph is kept once. Held-out pages come first, so that a paragraph which stands in
    both halves is measured, not trained on.
    """
    pages: list[tuple[bool, Source, str]] = []
    for source in SOURCES:
        if not source.root.is_dir():
            raise FileNotFoundError(f"{source.root}: install the Debian package {source.package}")
        paths = {path for pattern in source.pages for path in source.root.glob(pattern)}
        for path in sorted(paths):
            name = str(path.relative_to(source.root))
            if not path.is_symlink() and not source.skip.search(name):
                pages.append((not is_held_out(source.package, name), source, name))
    pages.sort(key=lambda page: page[0])  # stable: False (held out) first
    seen: set[str] = set()
    for trained, source, name in pages:
        html = (source.root / name).read_text(encoding="utf-8", errors="replace")
        kept = []
        for paragraph in page_text(html).split("\n\n"):
            if len(paragraph) >= MIN_REPEATED_CHARS:
                if paragraph in seen:
                    continue
                seen.add(paragraph)
            kept.append(paragraph)
        text = "\n\n".join(kept)
        if len(text) >= 200:
            yield Document(source.package, name, text, not trained)
