import sys, torch, random, time
sys.path.insert(0,"/tmp/snap4")
import pyspiel
from labkit.labs.games import go
from labkit.labs.games.go import sacrifice as S, net as L, picture
im=go.load_net("/tmp/go_runs/"+sys.argv[1]+"/imitation-0.safetensors"); sp=go.load_net("/tmp/go_runs/"+sys.argv[1]+"/self-play-0.safetensors")
def bot(n,seed=7): return pyspiel.MCTSBot(go.new(5),pyspiel.RandomRolloutEvaluator(1,5+seed),1.4,n,200,True,seed,False)
quick,deep=bot(300),bot(4000)
def q(s,bot):
    root=bot.mcts_search(s); out={}
    for c in root.children:
        v=c.total_reward/max(1,c.explore_count)
        if c.outcome: v=c.outcome[s.current_player()]
        out[c.action]=(v,c.explore_count)
    return out
t=time.time(); seen=set(); n=k2=0
T=go.matched_temperature(im,sp,go.read(5)[-100:]); print("T",T)
recs=go.read(5); random.seed(int(sys.argv[2])); random.shuffle(recs)
for i in range(0,4000,50):
    states=[s for r in recs[i:i+50] for s in go.before(r,5)[6:34] if s.history()[-1]!=25]
    pi,ps=L.opinions(im,states),L.opinions(sp,states)
    for s,a,b in zip(states,pi,ps):
        m=int(b.argmax())
        nar=(a.log()/T).softmax(0)
        if m==25 or b[m]<0.45 or nar[m]>0.02: continue
        k=(picture.stones(s),s.current_player())
        if k in seen: continue
        seen.add(k)
        g=S.given_up(s,m)
        if g<2: continue
        n+=1
        v=q(s,quick)
        if v[m][0]<-0.5: continue
        k2+=1
        v=q(s,deep); top=max(v,key=lambda o:v[o][1])
        if top!=m: continue
        others=sorted(((v[o][0],go.name(o,5)) for o in v if o!=m and v[o][1]>0),reverse=True)
        gap=v[m][0]-others[0][0]
        loses=sum(float(nar[o]) for o in v if o!=m and v[o][0]<0)
        print("given",g,"imit %.4f narrow %.4f self %.3f"%(a[m],nar[m],b[m]),go.name(m,5),"q",round(v[m][0],2),"gap %.2f"%gap,"others",[(round(x,2),o) for x,o in others[:4]],"imit on losing %.2f"%loses,s.history()+[m],flush=True)
        if gap>0.1: print(s,flush=True)
    if i%200==0: print(i,n,k2,round(time.time()-t),flush=True)
    if time.time()-t>1200: break
