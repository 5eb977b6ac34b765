exec(open("/tmp/riddle_cells.py").read())
md(r"""
## 7 Play it yourself

Click a point, or use the keyboard: arrows move, Enter puts a stone, p passes, z takes back, o changes sides, n begins anew, h hides what the policy thinks. The blue points are its probabilities for *your* move. You are Black.
""")
code(r"""
answers = go.player(champion)
play = go.Play(answers, lambda state: go.opinions(champion, [state])[0].tolist(), SIZE)
board = go.Board(play)
board
""")
md(r"""
**Did all cells run at once?** Play now; the board stays alive as long as the kernel. Meanwhile, so that the notebook also shows a game where no widgets are: the imitation net sits in your place.
""")
code(r"""
watched = go.Play(go.player(champion, seed=4), play.thinks, SIZE)
you = go.player(imitation, seed=5)
while not watched.over:
    watched.press(you([watched.state])[0])
print(watched.said, f"({len(watched.state.history())} moves)")
path = go.before(watched.state.history(), SIZE)
go.boards(("after 8 moves", path[8]), ("after 16 moves", path[min(16, len(path) - 1)]),
          ("the end", watched.state))
""")
md(r"""
What a press can do wrong is said in a sentence, on the board and to a screen reader, and changes nothing:
""")
code(r"""
passes = go.Play(lambda states: [SIZE**2] * len(states), play.thinks, SIZE)
for press in (12, 12, SIZE**2, 3):
    passes.press(press)
    print("·", passes.said)
for size in (1, 25):
    try:
        go.new(size)
    except Exception as error:
        print("·", error)
""", CHECK)
md(r"""
## 8 What is missing for language

The two columns, once more. Everything has its counterpart but one.

| | Go 圍棋 | language model 語言模型 |
| --- | --- | --- |
| state | the board | the text so far |
| action | a point, or pass: 26 | a token: the whole vocabulary |
| policy | π(move given the board) | π(token given the text) |
| episode | a game | an answer |
| teacher, stages 1 and 2 | 棋譜: 人類老師下哪裡就跟著下哪裡 | 人類老師說甚麼就跟著說甚麼 |
| opponent | earlier versions of itself | none; the SFT model as the reference |
| reward | 直接由圍棋規則得到: won or lost | **?** |
| who says it | the rules: free, exact, at once | people: 人類的時間、精力是有限的 |

How large is that gap? Count it. The rules, on this machine, and a person who needs 10 seconds for a rating (an assumption; put in your own time from notebook 05):
""")
code(r"""
SECONDS_A_RATING = 10.0  # assumed; put in your own

began = time.perf_counter()
go.match(go.player(champion), go.player(champion, seed=1), 512, SIZE)
games = 512 / (time.perf_counter() - began) * 60
ratings = 60 / SECONDS_A_RATING
needed = record["settings"]["updates"] * record["settings"]["games"]
print(f"games played and judged by the rules: {games:,.0f} a minute")
print(f"answers judged by a person: {ratings:.0f} a minute, {games / ratings:,.0f} times fewer")
print(f"the {needed:,} games of section 5, judged by a person at that speed: "
      f"{needed * SECONDS_A_RATING / 3600:.0f} hours")
""")
md(r"""
Nobody rates for that long. So a model learns to imitate the rater, 回饋模型 (reward model): a virtual human who judges as fast as the rules do. That is notebooks 05 and 06. It is only an imitation, though, and can be fooled, as the rules of Go can't: that is notebook 08. Where a rule *can* judge language, none of this is needed: notebook 08b.

## What goes wrong

- **A stronger net is not a net that is right.** It learned against itself. What none of its versions plays, it has never had to answer; a person who plays something odd may find a hole.
- **Drawn or likeliest?** Compare like with like. Greedy imitation alone already beats its noisy teacher; the claim "self-play beats its teacher" says nothing about self-play unless that row stands beside it.
- **The rate against earlier versions does not rise for ever.** They become stronger as well: the first chart of section 4 stays near where it is while the second table moves. Watch a fixed opponent.
- **Games that would never end.** Two players that never pass could take and retake for ever. Here a position that comes back ends the game as a draw, and so does nobody's patience: after 50 moves the points are counted.

## Exercises

**1 · ★★☆ · 15 minutes.** The whole reward of stage 2: who holds how many points? A board is five strings, "X" Black, "O" White, "." free. A colour has its stones, and every free region that touches that colour alone.
""")
code(r"""
def my_area(board):
    ...  # → (Black's points, White's points)

right = checks.check_area(my_area)
""", CHECK)
md(r"""
<details><summary>Solution</summary>

```python
def my_area(board):
    points = {"X": 0, "O": 0}
    free = set()
    for r in range(5):
        for c in range(5):
            if board[r][c] == ".":
                free.add((r, c))
            else:
                points[board[r][c]] += 1
    while free:
        todo, region, touched = [free.pop()], 0, set()
        while todo:
            r, c = todo.pop()
            region += 1
            for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                if (y, x) in free:
                    free.remove((y, x))
                    todo.append((y, x))
                elif 0 <= y < 5 and 0 <= x < 5 and board[y][x] != ".":
                    touched.add(board[y][x])
        if len(touched) == 1:
            points[touched.pop()] += region
    return points["X"], points["O"]
```
</details>

**2 · ★★☆ · 10 minutes.** What does each move earn? `scores` (B,) says who won (1 or −1), `values` (B, T) what the critic expected before each move, `mask` (B, T) is 1 where there was a move. Return the advantages (B, T): better than expected, or worse; whitened (mean 0, deviation 1) over the real moves, 0 elsewhere. (It is GAE with λ = 1; in 07 you write the same for tokens.)
""")
code(r"""
def my_advantages(scores, values, mask):
    ...  # your code

right = checks.check_advantages(my_advantages)
""", CHECK)
md(r"""
<details><summary>Solution</summary>

```python
def my_advantages(scores, values, mask):
    raw = scores[:, None] - values
    real = raw[mask.bool()]
    return (raw - real.mean()) / real.std(unbiased=False) * mask
```
</details>

**3 · ★★☆ · 10 minutes. Predict, then run.** AlphaGo began with human records; AlphaGo Zero began with nothing. Give each ten updates of self-play: which plays better against the teacher, the net that began from the imitation, or the one that began from random weights? Write your guess; only then the cell trains (about a minute).
""")
code(r"""
my_start = ...  # your guess: "imitation" or "nothing"

def from_where():
    found = {}
    for start in ("imitation", "nothing"):
        torch.manual_seed(3)
        beginner = copy.deepcopy(imitation) if start == "imitation" else go.Net(SIZE)
        go.self_play(beginner, go.SelfPlay(updates=10, games=128, opponents=2, seed=3))
        match = go.match(go.player(beginner), go.teacher(SIZE, 7), 200, SIZE)
        found[start] = match.rate()[0]
    return found

right = checks.check_prediction(my_start, ("imitation", "nothing"), from_where)
""", CHECK)
md(r"""
<details><summary>Solution</summary>

There is nothing to copy: it is in your run. Think before you look: what does a game between two players who know nothing teach? And would it be the same after a thousand updates? (AlphaGo Zero passed AlphaGo in the end. For language nobody has a Zero: a model of random weights that babbles gets no reward to learn from.)
</details>

## Summary

- A game of Go is generated move by move, as an answer is token by token; each move is a classification.
- Stage 1 copies the teacher, luck and mistakes included; its likeliest moves are a vote, and better than the teacher. Section 3 prints both.
- Stage 2 needs no teacher: the result of the whole game (通盤考量) makes its moves likelier or rarer. In every seed it beats its teacher, and imitation at equal narrowness: section 5.
- 每次接龍都是對的，不一定結果是最好的: section 6 shows a move that imitation passes over and that wins.
- The same functions will train a language model in 07. What it lacks is the rules: so it needs people, and because they are slow, a reward model.

**Next:** [05 · collecting feedback](05_collecting_feedback.ipynb): where no rule knows who won, somebody has to say. Before this: [02 · instruction tuning](02_instruction_tuning.ipynb).
""")
