"""Drops the views of widgets from saved notebooks: `python saved.py FILE…`.

Their kernel is gone. JupyterLab and Notebook prefer such a view to the words (or the picture) that
stand beside it, and show "Error displaying widget: model not found".
"""

import sys

import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"


def without_views(notebook) -> bool:
    """Whether there was one; a view that nothing stands beside stays."""
    outputs = [o.get("data", {}) for cell in notebook.cells for o in cell.get("outputs", [])]
    dead = [data for data in outputs if VIEW in data and len(data) > 1]
    for data in dead:
        del data[VIEW]
    return bool(dead)


if __name__ == "__main__":
    for file in sys.argv[1:]:
        notebook = nbformat.read(file, 4)
        if without_views(notebook):
            nbformat.write(notebook, file)
