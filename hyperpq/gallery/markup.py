"""HTML from template files, in which every value is escaped unless it is HTML itself.

Names of files come from strangers. So the only way from text to a page is `fill`, which escapes it
for elements and for attributes in double quotes, the only kind that the templates have.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from functools import cache
from importlib import resources
from string import Template

from hyperpq.utils.shown_names import escaped


class Markup(str):
    """HTML, which `fill` inserts as it is."""

    __slots__ = ()

    @classmethod
    def join_all(cls, parts: list[Markup]) -> Markup:
        """Parts one after the other."""
        return cls("".join(parts))


@cache
def asset(name: str) -> str:
    """The text of a file of the package's folder ``templates``."""
    text = (resources.files("hyperpq.gallery") / "templates" / name).read_text("utf-8")
    # The hash of a policy is that of the text in the element.
    return text.strip()


@cache
def _template(name: str) -> Template:
    return Template(asset(f"{name}.html"))


def fill(template: str, **values: str | int) -> Markup:
    r"""A template with values; what is no `Markup` is escaped.

    Characters that cannot be seen, or that reverse text, are shown as escapes, such as ``\x1b``.
    """
    return Markup(_template(template).substitute({k: escape(v) for k, v in values.items()}))


def escape(value: str | int) -> str:
    """A value as the text of an element or an attribute."""
    if isinstance(value, Markup):
        return value
    return html.escape(escaped(str(value)), quote=True)


def document_head(
    title: str, header: Markup, *, content: str, style: str, script: str = "", images: str = "data:"
) -> Markup:
    """The beginning of a page, down to where its content goes.

    Parameters
    ----------
    title : str
        Of the document.
    header : Markup
        What stands above the content.
    content : str
        What the content is, for the link that leads there.
    style, script : str
        The only ones that the browser accepts; the script, if there is one, is at the end of the
        page.
    images : str
        Where images may come from, as in a content security policy.
    """
    none = "'none'"
    policy = (
        f"default-src 'none'; img-src {images}; style-src {policy_hash(style)}; "
        f"script-src {policy_hash(script) if script else none}; base-uri 'none'; form-action 'none'"
    )
    return fill(
        "document", policy=policy, title=title, style=Markup(style), header=header, content=content
    )


def fact_list(facts: Iterable[tuple[str, str]]) -> Markup:
    """Names and values as a list; nothing if there are none."""
    items = [fill("fact", name=name, value=value) for name, value in facts]
    return fill("facts", items=Markup.join_all(items)) if items else Markup()


def policy_hash(text: str) -> str:
    """The source expression of a content security policy that allows an inline text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
