import sys, json, glob, re, types
sys.path.insert(0,"/tmp/w/wt-go")
import nbformat
from labkit.labs.games import go
sp=json.load(open(glob.glob("/tmp/go_runs/go-*/self-play-0.json")[0])); te=json.load(open(glob.glob("/tmp/go_runs/go-*/teacher.json")[0])); te.pop("seconds")
r={"all":.9,"black":.9,"white":.9}
ag={p:{o:r for o in ("random","teacher","MCTS-50","imitation","imitation, as narrow")} for p in ("imitation","imitation, as narrow","imitation, likeliest","self-play","self-play, likeliest")}
rec={"size":5,"games":400,"records":{},"settings":{"updates":60,"games":256},"parameters":47635,"teacher":te,"seeds":[{"seed":s,"imitation":[],"self-play":sp["curve"],"against":ag,"temperature":0.0082} for s in range(3)]}
go.load=lambda *a: rec
from labkit.labs.games.go import sacrifice
sacrifice.RIDDLE[:]=[3, 8, 13, 12, 21, 22, 24, 17, 9, 19, 7, 14, 1, 11]
nb=nbformat.read("/tmp/w/wt-go/notebooks/04_alphago_and_language_models.ipynb",4)
ns={}
for c in nb.cells:
    if c.cell_type!="code" or "notebook.setup" in c.source: continue
    s=c.source
    for a,b in (("imitate(net, 500)","imitate(net, 20)"),("n=100","n=6"),("updates=16, games=128","updates=2, games=16"),("n=128","n=16"),("512","32"),("simulations=400","simulations=20"),("go.read(SIZE)","go.read(SIZE)[:150]")): s=s.replace(a,b)
    print("-----",c.id)
    last=None
    import ast
    t=ast.parse(s)
    if isinstance(t.body[-1],ast.Expr):
        exec(compile(ast.Module(t.body[:-1],[]),c.id,"exec"),ns); print(eval(compile(ast.Expression(t.body[-1].value),c.id,"eval"),ns))
    else: exec(compile(s,c.id,"exec"),ns)
