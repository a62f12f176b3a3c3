"""Links that are right in the repository and have no page of their name here, and the list of the decisions."""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the changes to Sphinx."""
    app.connect("source-read", list_decisions)
    app.connect("doctree-read", change_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def list_decisions(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put the decisions into the site's contents; on GitHub their list would show this as code."""
    if page == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def change_links(app: Sphinx, document: nodes.document) -> None:
    """Let links to scripts and files that are pages here lead to these, and those to what is no page be text."""
    page, pages, root = app.env.docname, Path(app.srcdir), Path(app.srcdir).parent
    for kind in (addnodes.pending_xref, addnodes.download_reference):
        for link in list(document.findall(kind)):
            if link.get("reftype") != "myst":
                continue
            target = Path((pages / page).parent, link["reftarget"].split("#")[0]).resolve()
            if link.get("refdomain") == "doc":  # a page, or a file outside of the pages, without its ending
                if target.is_relative_to(pages) or not link["reftarget"].startswith("/"):
                    continue
                target = target.with_suffix(".md")
            if "/" not in link["reftarget"] and "." not in link["reftarget"] and not target.exists():
                continue  # a heading
            shown = _page_of(target, pages, root)
            if shown:
                link.replace_self(_to_page(link, shown, page))
            elif target.exists() and not (target.is_file() and target.is_relative_to(pages)):
                link.replace_self(_as_text(link, target.relative_to(root)))


def _page_of(target: Path, pages: Path, root: Path) -> str | None:
    """Return the page that shows a file or folder under another name."""
    if target.is_relative_to(pages / "tutorials"):
        return "gallery/" + (target.stem if target.suffix == ".py" else "index")
    if target == root / "README.md":
        return "index"
    shown = f"project/{target.stem.lower()}"
    return shown if target.parent == root and (pages / f"{shown}.md").exists() else None


def _to_page(link: nodes.Element, shown: str, page: str) -> addnodes.pending_xref:
    how = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{shown}", "refexplicit": True, "refwarn": True}
    return addnodes.pending_xref("", *link.children, refdoc=page, **how)


def _as_text(link: nodes.Element, where: Path) -> nodes.Element:
    path = where.as_posix()
    if path.endswith(link.astext()):
        return nodes.literal(path, path)
    return nodes.inline("", "", *link.children, nodes.Text(" ("), nodes.literal(path, path), nodes.Text(")"))
