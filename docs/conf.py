"""The documentation's settings: Sphinx, MyST, sphinx-gallery and, for C++, Doxygen with Breathe. Fetches nothing."""

import subprocess
import sys
from pathlib import Path

import it3
from it3 import engine_loops
from it3.support import batches
from it3.training import callbacks, history, optimizing

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "it3"
copyright = "the it3 developers"  # noqa: A001  (Sphinx's name)
version = release = it3.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "breathe",
    "sphinx_copybutton",
    "all_names",
    "cpp_headers",
    "docstrings",
    "repository_links",
]
# The tutorials' scripts stand in gallery/ as pages.
exclude_patterns = ["_extensions", "tutorials"]
nitpicky = True
suppress_warnings = ["duplicate_declaration.cpp"]  # of the namespace, once a header; see unfold_namespaces()

# Markdown. Headings can be linked to as on GitHub.
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

# Python.
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Which are imported for type checkers alone.
for module, name in (
    *((batches, "Loader"), (optimizing, "GivenOptimizer"), (optimizing, "GivenScheduler")),
    *((callbacks, "Callback"), (history, "History"), (it3, "IT3Engine")),
):
    setattr(engine_loops, name, getattr(module, name))
python_maximum_signature_line_length = 80
add_module_names = False
napoleon_google_docstring = False
napoleon_use_rtype = False

# C++.
breathe_projects = {"it3": str(HERE.parent / "build" / "docs" / "doxygen" / "xml")}
breathe_default_project = "it3"
breathe_default_members = ("members",)
breathe_show_include = False
cpp_maximum_signature_line_length = 80

# What is not of it3, and has no page here. There is no network to fetch other projects' lists of names from.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(torch|nn|matplotlib|pandas|optuna|collections|os|pathlib|np|numpy|pd|dataclasses|jinja2|mlflow)(\..*)?",
    ),
    (r"py:.*", r"(Tensor|Module|Optimizer|LRScheduler|ExportedProgram|Axes|DataFrame|Path|PathLike|optional)"),
    (r"cpp:.*", r"(std|at|c10|torch)(::.*)?"),
    (r"cpp:.*", r"(it3::)?detail(::.*)?"),
    # Parts of the core that public headers name, and programs have no use for.
    (
        r"cpp:.*",
        r"(Compiled|EngineCall|ExportedGraph|Graphs|OptimizerState|SavedPrograms|Shapes|State|UpgradeMutex)(::.*)?",
    ),
]

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "it3"
html_static_path = ["_static"]
html_css_files = ["it3.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7fb2ec", "color-brand-content": "#7fb2ec"},
}


def read_headers() -> None:
    """Have Doxygen read the C++ headers."""
    (HERE.parent / "build" / "docs" / "doxygen").mkdir(parents=True, exist_ok=True)
    subprocess.run(["doxygen", "Doxyfile"], cwd=HERE, check=True)


read_headers()
