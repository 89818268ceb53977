import tomllib
from pathlib import Path

metadata = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = metadata["name"]
author = "the bayesify contributors"
copyright = author
release = version = metadata["version"]

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# A link that leads nowhere is an error; nothing is fetched to find out.
nitpicky = True
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"{project} {release}"
