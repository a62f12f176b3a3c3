"""Print the requirements of one of pyproject.toml's extras, one a line, so that pip need not build it3 to know them."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(requirement.replace(" ", "") for requirement in project["optional-dependencies"][sys.argv[1]]))
