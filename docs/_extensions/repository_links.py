"""Links that are right in the repository and have no page here: to folders, and to the tutorials' scripts."""

from pathlib import Path, PurePosixPath

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the changes to Sphinx."""
    app.connect("doctree-read", change_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def change_links(app: Sphinx, document: nodes.document) -> None:
    """Let links to docs/tutorials lead to the gallery's pages, and have those to other files and folders be text."""
    page = Path(app.srcdir, app.env.docname)
    for kind in (addnodes.pending_xref, addnodes.download_reference):
        for link in list(document.findall(kind)):
            if link.get("reftype") != "myst" or link.get("refdomain") == "doc":
                continue
            target = (page.parent / link["reftarget"].split("#")[0]).resolve()
            if not target.exists() or target == page.parent.resolve():
                continue
            tutorials = Path(app.srcdir, "tutorials")
            if target.is_relative_to(tutorials):
                link.replace_self(_to_gallery(link, target.relative_to(tutorials)))
            elif not (target.is_file() and target.is_relative_to(app.srcdir)):
                link.replace_self(_as_text(link, target, Path(app.srcdir).parent))


def _to_gallery(link: nodes.Element, script: Path) -> addnodes.pending_xref:
    name = PurePosixPath("gallery", script.with_suffix("") if script.suffix == ".py" else "index")
    how = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{name}", "refexplicit": True}
    return addnodes.pending_xref("", *link.children, refdoc=link["refdoc"], refwarn=True, **how)


def _as_text(link: nodes.Element, target: Path, root: Path) -> nodes.inline:
    where = target.relative_to(root).as_posix() if target.is_relative_to(root) else target.name
    return nodes.inline("", "", *link.children, nodes.Text(" ("), nodes.literal(where, where), nodes.Text(")"))
