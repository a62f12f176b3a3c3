"""C++ headers as pages show them: all of the public ones, without the namespace that every one would repeat."""

from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the change and the check to Sphinx."""
    app.connect("doctree-read", unfold_namespaces)
    app.connect("env-check-consistency", warn_of_missing_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def unfold_namespaces(_app: Sphinx, document: nodes.document) -> None:
    """Show what is in a namespace in its place, and leave the namespace out of the index."""
    for entry in list(document.findall(addnodes.desc)):
        signature = entry.next_node(addnodes.desc_signature)
        if entry.get("domain") == "cpp" and signature and signature.astext().startswith("namespace "):
            content = [child for part in entry.children if isinstance(part, addnodes.desc_content) for child in part]
            place = entry.parent.index(entry)
            has_index = place > 0 and isinstance(entry.parent[place - 1], addnodes.index)
            entry.parent[place - has_index : place + 1] = content


def warn_of_missing_names(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what Doxygen has read and no page documents."""
    folder = Path(env.config.breathe_projects[env.config.breathe_default_project])
    there = {name for name, *_ in env.domains.cpp_domain.get_objects()}
    for name in sorted(_names_read(folder) - there):
        logging.getLogger(__name__).warning("docs/api/cpp.md does not document %s", name)


def _names_read(folder: Path) -> set[str]:
    """Return the classes, and the functions and types of the namespace it3."""
    names = set()
    for compound in ElementTree.parse(folder / "index.xml").getroot().iter("compound"):
        name = compound.findtext("name", "")
        if compound.get("kind") in {"class", "struct"}:
            names.add(name)
        elif name == "it3":
            names |= {
                f"it3::{member.findtext('name')}"
                for member in compound.iter("member")
                if member.get("kind") != "enumvalue"
            }
    return names
