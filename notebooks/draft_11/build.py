"""Write notebooks/11_ai_feedback.ipynb: head, a, [b], c, [d], exercises. build.py OUT [cells_b_d.py]"""
import sys, runpy, nbformat, ast
sys.path.insert(0, sys.argv[3] if len(sys.argv)>3 else ".")
from labkit.charts import diagrams
m=runpy.run_path("cells_a_c.py"); other=runpy.run_path(sys.argv[2]) if len(sys.argv)>2 and sys.argv[2] else {}
readings=runpy.run_path("readings.py")["R"]
B=other.get("B") or [("markdown","11-b","## b · Constitutional AI 憲法式 AI\n\n<!-- section b -->",[])]
D=other.get("D") or [("markdown","11-d","## d · Self-rewarding 自我獎勵\n\n<!-- section d -->",[])]
X=m["X"]; more=other.get("X") or []
cells=m["H"]+m["A"]+B+m["C"]+D+X[:-1]+more+X[-1:]
nb=nbformat.v4.new_notebook()
nb.metadata={"kernelspec":{"display_name":"Python 3","language":"python","name":"python3"},"language_info":{"name":"python"}}
for kind,id,src,tags in cells:
    src=src.replace("PICTURE", diagrams.markdown("11")) if id=="11-h2" else src
    for k,v in readings.items(): src=src.replace(k,v)
    c=nbformat.v4.new_markdown_cell(src) if kind=="markdown" else nbformat.v4.new_code_cell(src)
    c.id=id; 
    if tags: c.metadata["tags"]=tags
    if kind=="code":
        lines=src.split("\n")
        if len(lines)>25 or max(map(len,lines))>88: print("LONG",id,len(lines),max(map(len,lines)))
        if "%pip" not in src: ast.parse(src)
    nb.cells.append(c)
nbformat.validate(nb); nbformat.write(nb, sys.argv[1]); print(len(nb.cells),"cells")
