"""The site: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generate import generate

import pliant

generate()

project, author, release = "pliant", "The pliant authors", pliant.__version__
copyright = "The pliant authors, Apache-2.0"
extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = ["_build", "jupyter_execute", "generated/versions.md"]
html_static_path, html_css_files = ["static"], ["site.css"]
html_theme = "furo"
html_title = f"pliant {release}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell, on a busy machine; a quiet one needs some seconds
nb_execution_in_temp = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
suppress_warnings = ["myst.header"]  # generated pages skip a level
