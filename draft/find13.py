import sys, torch, random, time
sys.path.insert(0,"/tmp/snap4")
from labkit.labs.games import go
from labkit.labs.games.go import sacrifice as S, net as L, picture
im=go.load_net("/tmp/imitation-0.safetensors"); sp=go.load_net("/tmp/self-play-0.safetensors")
T=0.0082; me,you=go.player(sp,seed=1),go.player(sp,seed=2)
def share(s,o,n):
    c=s.child(o)
    if c.is_terminal(): return (c.returns()[s.current_player()]+1)/2
    sc=go.match(me,you,n,begin=[c]*n).scores
    return sum(x if i%2 else 1-x for i,x in enumerate(sc))/n
t=time.time(); seen=set(); n=0
recs=go.read(5); random.seed(int(sys.argv[1])); random.shuffle(recs)
for i in range(0,4000,50):
    states=[s for r in recs[i:i+50] for s in go.before(r,5)[6:36] if s.history()[-1]!=25]
    pi,ps=L.opinions(im,states),L.opinions(sp,states)
    for s,a,b in zip(states,pi,ps):
        m=int(b.argmax()); legal=len(s.legal_actions())
        if m==25 or b[m]<0.5 or a[m]>0.13: continue
        nar=(a.log()/T).softmax(0)
        if nar[m]>0.02: continue
        k=(picture.stones(s),s.current_player())
        if k in seen: continue
        seen.add(k)
        g=S.given_up(s,m)
        if g<2: continue
        n+=1
        top=[int(o) for o in a.argsort(descending=True)[:3]]
        w=share(s,m,60)
        if w<0.6: print("w",w); continue
        tw=[share(s,o,40) for o in top]
        safe=[o for o in s.legal_actions() if o!=25 and S.given_up(s,o)<g]
        print("YES" if max(tw)<0.5 else "no","given",g,"imit %.4f self %.3f"%(a[m],b[m]),go.name(m,5),"wins %.2f"%w,"imit's",[(go.name(o,5),round(float(a[o]),3),round(x,2)) for o,x in zip(top,tw)],s.history()+[m],flush=True); print(s,flush=True)
    if i%200==0: print(i,n,round(time.time()-t),flush=True)
    if time.time()-t>900: break
