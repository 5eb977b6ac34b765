md(r"""
Numbers are percent. Imitation's habits are spread over the board; self-play knows where it wants to begin.

## 6 珍瓏棋局

In 《天龍八部》 a riddle on the board, 珍瓏, defeats every master, until somebody puts a stone where it kills his own group. With those stones gone there is suddenly room, and he wins. For the lecture it is the picture of what imitation can't see: 每次接龍都是對的，不一定結果是最好的. Ours is small. @@SETTING@@ The ringed move lets the other take stones at once; the moves that imitation likes best look safer.
""")
code(r"""
state, answer = go.riddle()
temperature = record["seeds"][0]["temperature"]  # at which imitation is as narrow
first, second = (go.opinions(one, [state])[0] for one in (imitation, champion))
narrow = (first.log() / temperature).softmax(0)
print(f"{'Black' if state.current_player() == 0 else 'White'} to move. After "
      f"{go.name(answer, SIZE)} the other can take {go.given_up(state, answer)} stones.")
print(f"π of that move: imitation {first[answer]:.1%}, as narrow as self-play "
      f"{narrow[answer]:.2%}; after self-play {second[answer]:.1%}")
go.boards(("imitation", state, heat(imitation, state), [answer]),
          ("after self-play", state, heat(champion, state), [answer]))
""")
md(r"""
Is it true that it wins? Let the engine say it: from that move on, and from the moves that imitation likes best, two deep searches (400 random games a move, sixteen times the teacher's) play to the end, ten times each.
""")
code(r"""
rows = []
for move in [answer, *(m for m in first.argsort(descending=True).tolist() if m != answer)][:4]:
    share, games = go.won_after(state, move, simulations=400, games=10)
    rows.append({"move": go.name(move, SIZE), "stones in danger": go.given_up(state, move),
                 "imitation": f"{first[move]:.1%}", "self-play": f"{second[move]:.1%}",
                 "won by the mover": evals.shown(share, games)})
charts.table(rows)
""")
md(r"""
@@VERDICT@@
""")
