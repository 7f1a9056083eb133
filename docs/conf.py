"""Settings of the documentation's website, which `make docs` builds with Sphinx.

Sphinx reads from the project's folder, so a link between two pages is the same on the website and on a code host.
"""

import re
import shutil
from pathlib import Path

import griffe
from griffe2md import ConfigDict, render_object_docs
from sphinx.application import Sphinx

PROJECT = Path(__file__).parents[1]
API = PROJECT / "docs/api"

project = html_title = "Group emotion recognition"
author = "The group-emotion developers"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [path.name for path in PROJECT.iterdir() if path.is_dir() and path.name != "docs"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
highlight_language = "none"
# Diagrams are drawn when the site is built. To draw them, a browser would load a script from another host.
mermaid_output_format = "svg"
mermaid_cmd = "mermaidx --background white"
html_theme = "furo"
html_show_copyright = html_show_sourcelink = html_copy_source = False

# Sphinx warns of a page that is missing here, and `make docs` fails at any warning.
NAVIGATION = """
```{toctree}
:hidden:
:caption: Use

Start <self>
docs/demo
docs/tutorial
docs/data-sets
docs/vgaf
docs/recipes
docs/training
docs/learning
docs/results
docs/experiments
docs/commands
docs/extraction
```
```{toctree}
:hidden:
:caption: Code

docs/architecture
docs/api/common
docs/api/clips
docs/api/shards
docs/api/extraction
docs/api/loading
docs/api/models
docs/api/training
docs/api/results
docs/api/serving
```
```{toctree}
:hidden:
:caption: Project

CHANGELOG
CONTRIBUTING
```
"""

API_STYLE = ConfigDict(
    heading_level=1,
    members_order="source",
    inherited_members=False,
    show_if_no_docstring=False,
    show_object_full_path=False,
    show_root_full_path=False,
    show_root_members_full_path=False,
    show_signature_annotations=True,
    annotations_path="source",
    line_length=88,
    summary=False,
)


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the navigation to the README. A code host would show it there as a block of code."""
    if page == root_doc:
        source[0] += NAVIGATION


def write_api(app: Sphinx) -> None:
    """Write a page for each zone of `pipeline/` from its docstrings, which are Markdown. No module is imported."""
    shutil.rmtree(API, ignore_errors=True)
    API.mkdir()
    settings = griffe.load_extensions("griffe_pydantic")  # reads the descriptions of settings
    package = griffe.load("pipeline", search_paths=[PROJECT], extensions=settings)
    for name, zone in package.modules.items():
        zone.members = dict(sorted(zone.members.items()))  # else in the order of the disk
        text = render_object_docs(zone, API_STYLE)
        # Base classes are links to anchors that the pages do not have.
        (API / f"{name}.md").write_text(re.sub(r"\[(\w+)\]\(#[\w.]+\)", r"\1", text))


def setup(app: Sphinx) -> None:
    """Connect the two functions above to the build."""
    app.connect("source-read", add_navigation)
    app.connect("builder-inited", write_api)
