"""Builds notebooks/04_alphago_and_language_models.ipynb from cells (unexecuted)."""
import nbformat, sys
NAME="04_alphago_and_language_models"
OUT=f"/tmp/w/wt-go/notebooks/{NAME}.ipynb"
cells=[]
def md(s): cells.append(("markdown",s.strip("\n"),()))
def code(s,*tags): cells.append(("code",s.strip("\n"),tags))
CHECK="nbval-check-output"
exec(open("/tmp/nb_cells.py").read())
sys.path.insert(0,"/tmp/w/wt-go")
from labkit.charts import diagrams
cells=[(k,t.replace("@@PICTURE@@",diagrams.markdown("04")),g) for k,t,g in cells]
nb=nbformat.v4.new_notebook()
nb.metadata={'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}, 'language_info': {'codemirror_mode': {'name': 'ipython', 'version': 3}, 'file_extension': '.py', 'mimetype': 'text/x-python', 'name': 'python', 'nbconvert_exporter': 'python', 'pygments_lexer': 'ipython3', 'version': '3.11.7'}}
for i,(k,s,t) in enumerate(cells):
    c=(nbformat.v4.new_markdown_cell if k=="markdown" else nbformat.v4.new_code_cell)(s)
    c.id=f"04-{i:02d}"
    if t: c.metadata["tags"]=list(t)
    nb.cells.append(c)
nbformat.write(nb,OUT); print(len(cells))
