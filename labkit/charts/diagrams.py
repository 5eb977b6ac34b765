"""The pictures of the ideas at the head of each notebook, drawn here as SVG.

    python -m labkit.charts.diagrams          # writes notebooks/pictures/NN.svg

A picture is a file beside the notebook (`![alt](pictures/NN.svg)`), so it has its own opaque panel:
it reads alike in a light and a dark theme. Its words stay 12 pixels or more where a page shows it
at four fifths of its width. The docstring of its function is what it shows in words, for those who
don't see it, and for Colab, which shows no file beside a notebook.
"""

import html
import math
import sys
from pathlib import Path

from labkit.charts.look import AXIS, COLOURS, FONT, GREY, INK, PAPER, RULE
from labkit.charts.tables import width

WIDE, SMALL, SIZE, LARGE = 800, 15, 16, 19
BLUE, RED, GREEN, PURPLE = COLOURS[:4]
TINTS = {
    BLUE: "#e7f1f9",
    RED: "#fcefe6",
    GREEN: "#e4f4ee",
    PURPLE: "#f6eaf3",
    GREY: "#f1f1f1",
    RULE: PAPER,
}
HEAD = '<marker id="{id}" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
TIP = '<path d="M0,0 L9,4 L0,8 z" fill="{fill}"/></marker>'


class Picture:
    """Boxes, arrows and words on one panel, in pixels from its top left."""

    def __init__(self, tall):
        self.tall, self.parts, self.heads = tall, [], {}

    def words(self, x, y, said, size=SIZE, anchor="start", fill=INK, bold=False):
        """One line whose baseline is at y."""
        weight = ' font-weight="bold"' if bold else ""
        place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"'
        self.parts.append(f"<text {place}{weight}>{html.escape(said)}</text>")

    def box(self, x, y, wide, tall, *lines, tone=BLUE, size=SIZE, bold=True):
        """A rounded box with centred lines, the first of them bold."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{tall:g}" rx="8"'
            f' fill="{TINTS[tone]}" stroke="{tone}" stroke-width="1.5"/>'
        )
        step = size * 1.4
        for i, line in enumerate(lines):
            down = y + tall / 2 + (i - (len(lines) - 1) / 2) * step + size * 0.36
            self.words(x + wide / 2, down, line, size, "middle", bold=bold and not i)

    def line(self, *points, tone=AXIS, dash="", thick=2.0, head=True):
        """Straight pieces through the points, with an arrow's head at the last."""
        places = " ".join(f"{x:g},{y:g}" for x, y in points)
        ends = f' stroke-dasharray="{dash}"' if dash else ""
        if head:
            name = self.heads.setdefault(tone, f"tip{len(self.heads)}")
            ends += f' marker-end="url(#{name})"'
        self.parts.append(
            f'<polyline points="{places}" fill="none" stroke="{tone}" stroke-width="{thick:g}"'
            f' stroke-linejoin="round"{ends}/>'
        )

    def svg(self, alt) -> str:
        heads = "".join(HEAD.format(id=n) + TIP.format(fill=t) for t, n in self.heads.items())
        panel = f'<rect width="{WIDE}" height="{self.tall}" rx="10" fill="{PAPER}"/>'
        said, font = html.escape(alt), html.escape(FONT)
        whole = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{self.tall}"'
            f' viewBox="0 0 {WIDE} {self.tall}" role="img" font-family="{font}">',
            f"<title>{said}</title><defs>{heads}</defs>{panel}",
            *self.parts,
            "</svg>\n",
        ]
        return "\n".join(whole)


def room(said, size) -> float:
    """About how many pixels a line takes: a Chinese character is as wide as it is high."""
    return width(said) * size * 0.52


def stages() -> Picture:
    """Three stages of one model. First 第一階段, 自我學習，累積實力: pre-training,
    self-supervised (自督導式學習), from any text, 人工智 → 慧. Second 第二階段,
    名師指點，發揮潛力: instruction fine-tuning, supervised (督導式學習), from a teacher's
    answers, 你是誰？ → 我. Third 第三階段, 參與實戰，打磨技巧: RLHF, reinforcement learning
    (增強式學習), from which answer is better, 玉山 > 誰來告訴我呀.
    """
    page, words = Picture(312), ("自督導式學習", "督導式學習", "增強式學習")
    columns = (
        (BLUE, "第一階段", "自我學習，累積實力", "1  pre-training", "self-supervised"),
        (GREEN, "第二階段", "名師指點，發揮潛力", "2  fine-tuning", "supervised"),
        (RED, "第三階段", "參與實戰，打磨技巧", "3  RLHF", "reinforcement"),
    )
    below = (
        ("人工智 → 慧", "learns from any text"),
        ("你是誰？ → 我", "learns from a teacher's answers"),
        ("玉山 > 誰來告訴我呀", "learns which answer is better"),
    )
    for i, ((tone, stage, lecture, *inside), (example, source)) in enumerate(zip(columns, below)):
        left = 20 + i * 265
        page.words(left + 115, 38, stage, LARGE, "middle", tone, bold=True)
        page.words(left + 115, 66, lecture, SIZE, "middle")
        page.box(left, 84, 230, 104, *inside, words[i], tone=tone, size=18)
        page.words(left + 115, 224, example, LARGE, "middle", bold=True)
        page.words(left + 115, 252, source, SMALL, "middle")
        if i:
            page.line((left - 32, 136), (left - 4, 136))
    page.words(20, 292, "one model, trained three times; each stage goes on from the last", SMALL)
    return page


def chain() -> Picture:
    """The word chain. The model reads 人 工 智 慧 真 有 (輸入), and under each character stands
    what it should say next, 工 智 慧 真 有 趣 (輸出): the same text, moved by one place.
    """
    page, text = Picture(274), "人工智慧真有趣"
    page.words(20, 62, "it reads 輸入", bold=True)
    page.words(20, 176, "it should say 輸出", bold=True)
    for i, (this, after) in enumerate(zip(text, text[1:])):
        left = 210 + i * 96
        page.box(left, 30, 60, 52, this, size=24)
        page.line((left + 30, 86), (left + 30, 138))
        page.box(left, 144, 60, 52, after, tone=GREEN, size=24)
        if i < 5:
            page.line((left + 63, 56), (left + 93, 56), tone=RULE, head=False)
    page.words(20, 236, "The same text, moved by one place: every place is an exercise,", SMALL)
    page.words(20, 256, "and the place sees all that stands to its left.", SMALL)
    return page


def conversation() -> Picture:
    """One conversation in tokens: USER: 台灣最高的山是哪座？ AI: 玉 山 [END]. The response mask
    is 0 on the question with its USER: and AI:, which are only read, and 1 on 玉, 山 and [END],
    which are learnt.
    """
    page, left = Picture(262), 20
    pieces = ["USER:", *"台灣最高的山是哪座？", "AI:", "玉", "山", "[END]"]
    for i, piece in enumerate(pieces):
        wide, learnt = max(42, room(piece, SIZE) + 20), i > 11
        page.box(left, 64, wide, 48, piece, tone=GREEN if learnt else GREY, bold=learnt)
        page.words(left + wide / 2, 140, str(int(learnt)), LARGE, "middle", bold=learnt)
        if i == 12:
            page.words(left, 46, "the answer: learnt", SMALL, fill=GREEN, bold=True)
        left += wide + 6
    page.words(20, 46, "the question: read, not learnt", SMALL, fill=GREY, bold=True)
    page.words(20, 172, "response_mask: 1 where a token counts in the loss", SMALL)
    said = "From everything before it, the model has to say 玉, then 山, then [END]."
    page.words(20, 218, said, SMALL)
    page.words(20, 240, "It is the word chain of stage one, on a text that a teacher wrote.", SMALL)
    return page


def lora() -> Picture:
    """LoRA. The input x goes two ways: through the frozen matrix W (out × in, in 4 bits), and
    through the two thin matrices A (r × in) and B (out × r), which learn, times α / r. The sum
    is W x + (α / r) B A x.
    """
    page = Picture(250)
    page.box(20, 92, 70, 56, "x", size=LARGE)
    page.line((94, 112), (140, 112), (140, 62), (178, 62))
    page.line((94, 128), (140, 128), (140, 182), (178, 182))
    page.box(184, 24, 330, 76, "W", "out × in, frozen, in 4 bits", tone=GREY, size=18)
    page.box(184, 156, 92, 52, "A  (r × in)", tone=GREEN, size=SMALL)
    page.line((280, 182), (308, 182))
    page.box(314, 156, 92, 52, "B  (out × r)", tone=GREEN, size=SMALL)
    page.line((410, 182), (438, 182))
    page.box(444, 156, 70, 52, "· α / r", tone=RULE, size=SMALL)
    page.line((518, 62), (570, 62), (570, 98))
    page.line((518, 182), (570, 182), (570, 146))
    page.box(548, 102, 44, 40, "+", tone=RULE, size=22)
    page.line((596, 122), (626, 122))
    page.box(632, 96, 154, 52, "W x + (α / r) B A x", size=SMALL)
    page.words(184, 236, "green: what learns", SMALL, fill=GREEN, bold=True)
    return page


def games() -> Picture:
    """One loop, played twice. In the game the actor (a net) sees the screen, chooses left, right or
    fire, and an alien is shot: reward 1. In language the model sees the question and the words so
    far, chooses the next token, and at the end a judge likes the answer. Action is token, policy is
    language model, episode is answer, reward is judge, critic is critic.
    """
    page = Picture(330)
    columns = (
        (BLUE, "a game 電玩", "screen", "actor 演員", "left · right · fire", "aliens shot"),
        (
            GREEN,
            "language 語言模型",
            "words so far",
            "language model",
            "next token",
            "a judge 回饋",
        ),
    )
    for i, (tone, name, seen, who, action, paid) in enumerate(columns):
        left = 24 + i * 396
        page.words(left + 178, 34, name, LARGE, "middle", tone, bold=True)
        page.box(left, 56, 130, 56, seen, "observation", tone=GREY, size=SMALL)
        page.line((left + 134, 84), (left + 218, 84))
        page.box(left + 224, 56, 132, 56, who, "policy", tone=tone, size=SMALL)
        page.line((left + 290, 116), (left + 290, 150))
        page.box(left + 190, 156, 166, 52, action, "action", tone=tone, size=SMALL)
        page.line((left + 186, 182), (left + 65, 182), (left + 65, 118))
        page.words(left + 76, 174, "again and again", SMALL)
        page.line((left + 290, 212), (left + 290, 238))
        page.box(left + 190, 244, 166, 52, paid, "reward", tone=RED, size=SMALL)
        page.line((left + 186, 270), (left + 152, 270), tone=PURPLE)
        page.box(left, 244, 146, 52, "critic", "what it expected", tone=PURPLE, size=SMALL)
    page.line((400, 50), (400, 300), tone=RULE, head=False)
    page.words(
        24, 320, "one game from start to end = one answer; better than expected: do it more", SMALL
    )
    return page


def alphago() -> Picture:
    """Go and language, step by step alike. Go: from game records (棋譜) the policy learns to play
    what the teacher played; then it plays earlier versions of itself, the rules say who won, and
    the moves of won games become likelier, of lost games rarer. Language: from text and
    demonstrations the policy learns to say what the teacher said; then it answers, and where Go has
    its rules stands a question mark: nobody can compute how good an answer is. People can say, but
    their time is short; a reward model (回饋模型) imitates them.
    """
    page = Picture(372)
    for x, said in ((176, "1 · imitate the teacher"), (546, "2 · learn from the result")):
        page.words(x, 34, said, LARGE, "middle", bold=True)
    rows = (
        ("Go", "圍棋", ("game records", "棋譜"), ("plays earlier", "versions of itself"), 56),
        ("language", "語言模型", ("text and", "demonstrations"), ("answers a", "question"), 214),
    )
    for name, chinese, taught, does, top in rows:
        page.words(20, top + 32, name, SIZE, bold=True)
        page.words(20, top + 54, chinese, SMALL)
        page.box(106, top, 140, 70, *taught, tone=GREY, size=SMALL)
        page.line((250, top + 35), (276, top + 35))
        page.box(282, top, 92, 70, "policy", tone=BLUE)
        page.line((378, top + 35), (404, top + 35))
        page.box(410, top, 154, 70, *does, tone=BLUE, size=SMALL)
        page.line((568, top + 35), (594, top + 35))
        page.line((690, top + 74), (690, top + 100), (328, top + 100), (328, top + 76), tone=GREEN)
    page.box(600, 56, 180, 70, "the rules", "won or lost", tone=GREEN)
    page.box(600, 214, 180, 70, "?", "reward model 回饋模型", tone=RED, size=SMALL)
    page.words(508, 178, "won: likelier 提高機率 · lost: rarer 降低機率", SMALL, "middle")
    page.words(508, 336, "praised: likelier · blamed: rarer", SMALL, "middle")
    page.words(20, 362, "What is missing below: nobody can compute who won.", SMALL, bold=True)
    return page


def feedback() -> Picture:
    """Under the question 請用 50 字介紹大型語言模型 stand two responses, 1 / 2 and 2 / 2, and
    the buttons Better, Worse and Same. A click on Better becomes a row in the store (prompt,
    both responses, verdict, rater, time, seconds), and the row becomes a pair to learn from:
    the prompt, chosen 2 / 2, rejected 1 / 2.
    """
    page = Picture(388)
    page.box(20, 20, 760, 142, tone=GREY)
    page.words(40, 50, "You", bold=True)
    page.words(110, 50, "請用 50 字介紹大型語言模型")
    page.words(40, 82, "< 1 / 2 >", fill=GREY)
    page.words(130, 82, "大型語言模型是由數十億參數訓練而成的 …")
    page.words(40, 110, "< 2 / 2 >", fill=GREY)
    page.words(130, 110, "大型語言模型是人工智能領域的一項技術 …")
    page.words(40, 144, "Was this response better or worse?", SMALL)
    for i, (label, tone) in enumerate((("Better", GREEN), ("Worse", RULE), ("Same", RULE))):
        page.box(320 + i * 110, 122, 96, 32, label, tone=tone, size=SMALL)
    page.line((368, 158), (368, 204), tone=GREEN)
    page.words(382, 188, "a click", SMALL, fill=GREEN)
    page.box(20, 210, 760, 62, "a row in the store", tone=BLUE)
    page.parts.pop()
    page.words(40, 236, "a row in the store", bold=True)
    page.words(40, 260, "prompt · both responses · verdict · rater · time · seconds", SMALL)
    page.line((368, 276), (368, 312))
    page.box(20, 318, 760, 58, "a pair", tone=PURPLE)
    page.parts.pop()
    page.words(40, 342, "a pair to learn from", bold=True)
    page.words(40, 366, "prompt · chosen: the new one (2 / 2) · rejected: the first (1 / 2)", SMALL)
    return page


def reward() -> Picture:
    """The SFT model gives two answers to 台灣最高的山是哪座？: A 玉山。 and B 誰來告訴我呀？.
    One reward model gives A the score 1.3 and B −0.8. Their difference d is 2.1, and σ(d) =
    0.89 is the probability that a person prefers A.
    """
    page = Picture(300)
    page.words(20, 40, "台灣最高的山是哪座？", LARGE, bold=True)
    page.line((76, 52), (76, 98))
    page.box(20, 104, 116, 60, "SFT model", tone=GREY)
    answers = ((56, "A: 玉山。", "1.3", BLUE), (176, "B: 誰來告訴我呀？", "−0.8", RED))
    for y, said, score, tone in answers:
        page.line((140, 134), (164, 134), (164, y + 30), (190, y + 30))
        page.box(196, y, 176, 60, said, tone=tone)
        page.line((376, y + 30), (402, y + 30))
        page.box(408, y, 116, 60, "score", score, tone=tone)
        page.line((528, y + 30), (556, y + 30), (556, 134), (580, 134))
    page.box(586, 104, 194, 60, "d = 1.3 − (−0.8)", "= 2.1", tone=PURPLE)
    page.line((683, 168), (683, 206))
    page.box(586, 212, 194, 66, "σ(d) = 0.89", "P(a person prefers A)", tone=PURPLE, size=SMALL)
    page.words(408, 42, "the same reward model", SMALL, fill=GREY)
    page.words(20, 270, "One number for a whole answer (通盤考量).", SMALL)
    page.words(20, 290, "Only the difference d meets what a person said.", SMALL)
    return page


def ppo() -> Picture:
    """PPO's loop. A prompt goes to the policy, which writes a response. The reward model gives
    one score at its end, the reference (the frozen SFT model) a penalty per token for the KL,
    the critic what it expected. Together they give an advantage per token, and with it the
    policy makes a small, clipped step. Then it begins again.
    """
    page = Picture(372)
    page.box(20, 108, 92, 56, "prompt", tone=GREY)
    page.line((116, 136), (142, 136))
    page.box(148, 100, 116, 72, "policy", "(learns)", tone=BLUE)
    page.line((268, 136), (294, 136))
    page.box(300, 108, 112, 56, "response", tone=GREY)
    middles = (
        (30, "reward model", "one score, at the end", GREEN),
        (108, "reference", "penalty per token: KL", GREY),
        (186, "critic", "what it expected", PURPLE),
    )
    for y, name, gives, tone in middles:
        page.line((416, 136), (432, 136), (432, y + 28), (448, y + 28))
        page.box(454, y, 176, 56, name, gives, tone=tone, size=SMALL)
        page.line((634, y + 28), (652, y + 28), (652, 136), (670, 136))
    page.box(676, 100, 108, 72, "advantage", "per token", tone=RED, size=SMALL)
    page.line((730, 176), (730, 286), (206, 286), (206, 178), tone=RED)
    page.words(400, 276, "a small, clipped step of the policy (and of the critic)", SMALL, "middle")
    page.words(20, 322, "Again and again. The reference is the frozen SFT model: the policy", SMALL)
    page.words(20, 344, "pays a penalty (β · KL) for every token that moves away from it.", SMALL)
    return page


def overoptimization() -> Picture:
    """Score against the distance from the SFT model, √KL. The proxy, the reward model's score,
    is dashed and keeps rising. Gold, what a judge who knows the truth would say, is solid: it
    rises at first, then falls.
    """
    page = Picture(320)
    page.line((70, 260), (70, 30))
    page.line((70, 260), (560, 260))
    page.words(20, 22, "score", SMALL, bold=True)
    page.words(560, 290, "distance from the SFT model, √KL", SMALL, "end", bold=True)
    page.words(66, 284, "SFT", SMALL, "middle", GREY, bold=True)
    ds = [i / 40 for i in range(41)]

    def curve(height):
        return [(70 + 470 * d, 240 - 200 * height(d)) for d in ds]

    page.line(*curve(lambda d: 1.15 * d - 0.18 * d * d), tone=BLUE, dash="9 6", thick=3, head=False)
    page.line(*curve(lambda d: 1.7 * d - 1.75 * d * d), tone=RED, thick=3, head=False)
    page.words(580, 54, "proxy (dashed):", SIZE, fill=BLUE, bold=True)
    page.words(580, 78, "the reward model's score,", SMALL)
    page.words(580, 98, "what PPO is paid for", SMALL)
    page.words(580, 194, "gold (solid):", SIZE, fill=RED, bold=True)
    page.words(580, 218, "what a judge who knows", SMALL)
    page.words(580, 238, "the truth would say", SMALL)
    return page


def verifiable() -> Picture:
    """Two sources of reward, one way to learn. RLHF: raters → pairs → reward model (回饋模型) →
    score. RLVR: a rule reads the poem, 7 · 7 · 7 · 7 and a rhyme → 1 or 0. Both scores go to the
    same policy gradient with its KL penalty, and to the policy, whose own answers are judged again
    and again. What is gone with a rule: raters, pairs, reward model. What stays: sampling, policy
    gradient, KL, and whatever the reward does not see.
    """
    page = Picture(316)
    page.words(20, 36, "RLHF: the reward is learned from people", bold=True)
    page.box(20, 52, 100, 56, "raters", "評分者", tone=GREY, size=SMALL)
    page.line((124, 80), (150, 80))
    page.box(156, 52, 90, 56, "pairs", "A > B", tone=GREY, size=SMALL)
    page.line((250, 80), (276, 80))
    page.box(282, 52, 132, 56, "reward model", "回饋模型", tone=GREEN, size=SMALL)
    page.line((418, 80), (506, 130))
    page.words(440, 76, "score", SMALL)
    page.words(20, 176, "RLVR: the reward is a rule that anybody can check", bold=True)
    page.box(
        20, 192, 394, 56, "a rule reads the poem", "7 · 7 · 7 · 7, ，。，。, a rhyme", tone=PURPLE
    )
    page.line((418, 220), (506, 166))
    page.words(440, 234, "1 or 0", SMALL)
    page.box(512, 116, 128, 64, "PPO, GRPO", "gradient, KL", tone=RED, size=SMALL)
    page.line((644, 148), (670, 148))
    page.box(676, 120, 104, 56, "policy", tone=BLUE)
    page.line((728, 180), (728, 272), (217, 272), (217, 252), tone=RED)
    page.line((728, 116), (728, 26), (348, 26), (348, 48), tone=RED)
    page.words(476, 296, "its own poems, again and again", SMALL, "middle")
    return page


def dpo() -> Picture:
    """Two ways from the same pairs to a policy. RLHF: pairs → reward model (回饋模型) → score →
    PPO → policy, whose own answers go back to PPO again and again. DPO: pairs → one
    classification loss → policy, without a reward model and without sampling.
    """
    page = Picture(330)
    page.words(20, 36, "RLHF: first a virtual human, then trial and error", bold=True)
    page.box(20, 56, 110, 56, "pairs", "A > B", tone=GREY, size=SMALL)
    page.line((134, 84), (160, 84))
    page.box(166, 56, 140, 56, "reward model", "回饋模型", tone=GREEN, size=SMALL)
    page.line((310, 84), (384, 84))
    page.words(347, 74, "score", SMALL, "middle")
    page.box(390, 56, 100, 56, "PPO", tone=RED)
    page.line((494, 84), (560, 84))
    page.box(566, 56, 214, 56, "policy", tone=BLUE)
    page.line((673, 116), (673, 160), (440, 160), (440, 118), tone=RED)
    page.words(556, 152, "its own answers, again and again", SMALL, "middle")
    page.line((20, 192), (780, 192), tone=RULE, head=False)
    page.words(20, 228, "DPO: one step", bold=True)
    page.box(20, 248, 110, 56, "pairs", "A > B", tone=GREY, size=SMALL)
    page.line((134, 276), (160, 276))
    page.box(
        166, 248, 324, 56, "a classification loss", "no reward model, no sampling", tone=PURPLE
    )
    page.line((494, 276), (560, 276))
    page.box(566, 248, 214, 56, "policy", tone=BLUE)
    return page


def judges() -> Picture:
    """A judge reads 台灣最高的山是哪座？ with 玉山。 as A and 誰來告訴我呀？ as B, and says A with
    P = 0.9. Then the two change places, and it says A, now the other answer, with P = 0.6: it likes
    what stands first. The mean of 0.9 and 1 − 0.6 is 0.65: P(玉山 is better), a soft label. From
    such labels come a reward model and PPO, as from a person's; or the judge's score is the reward
    itself.
    """
    page = Picture(356)
    page.words(20, 36, "台灣最高的山是哪座？  Which answer is better?", bold=True)
    rows = (
        (56, "A: 玉山。", "B: 誰來告訴我呀？", "0.9"),
        (148, "A: 誰來告訴我呀？", "B: 玉山。", "0.6"),
    )
    for y, a, b, share in rows:
        page.box(20, y, 196, 72, a, b, tone=GREY, bold=False)
        page.line((220, y + 36), (250, y + 36))
        page.box(256, y + 6, 92, 60, "judge", tone=GREEN)
        page.line((352, y + 36), (382, y + 36))
        page.box(388, y + 6, 130, 60, f'P("A") = {share}', tone=RULE)
        page.line((522, y + 36), (556, y + 36), (556, 138), (580, 138))
    page.box(586, 96, 194, 84, "mean of 0.9", "and 1 − 0.6", "= 0.65", tone=PURPLE, size=SMALL)
    page.words(683, 76, "P(玉山 is better)", SMALL, "middle", bold=True)
    page.line((683, 184), (683, 252))
    page.box(586, 258, 194, 56, "AI label", "confidence 0.65", tone=BLUE, size=SMALL)
    page.line((582, 286), (550, 286))
    page.box(388, 258, 156, 56, "reward model", "回饋模型", tone=GREEN, size=SMALL)
    page.line((384, 286), (352, 286))
    page.box(256, 258, 90, 56, "PPO", tone=RED)
    page.line((302, 224), (302, 252), tone=RED, dash="6 5")
    page.words(20, 280, "dashed: the judge's score", SMALL)
    page.words(20, 302, "is the reward itself", SMALL)
    page.words(20, 340, "The answers change places: what only the place decided falls out.", SMALL)
    return page


def kto() -> Picture:
    """How much an answer is worth to a person, against how much more probable the policy makes it
    than the reference does. The curve of a thumb up rises through the reference point z₀, that of a
    thumb down falls through it; both flatten out on either side. One answer with one thumb is a
    label: 玉山 has a thumb up, 誰來告訴我呀 a thumb down.
    """
    page = Picture(330)
    page.line((40, 165), (516, 165))
    page.line((270, 290), (270, 34))
    page.words(270, 24, "value", SMALL, "middle", bold=True)
    page.words(516, 190, "log π(y) / π_ref(y)", SMALL, "end", bold=True)
    page.words(262, 306, "reference point z₀", SMALL, "middle", bold=True)
    zs = [i / 4 for i in range(-24, 25)]

    def curve(sign):
        return [(270 + 37 * z, 165 + sign * 210 * (1 / (1 + math.exp(z)) - 0.5)) for z in zs]

    page.line(*curve(1), tone=BLUE, thick=3, head=False)
    page.line(*curve(-1), tone=RED, thick=3, dash="9 6", head=False)
    page.words(500, 52, "thumb up", SIZE, "end", BLUE, bold=True)
    page.words(500, 292, "thumb down (dashed)", SIZE, "end", RED, bold=True)
    page.box(556, 40, 224, 70, "玉山。", "thumb up", tone=BLUE)
    page.box(556, 130, 224, 70, "誰來告訴我呀？", "thumb down", tone=RED)
    page.words(556, 236, "One answer, one thumb.", SMALL)
    page.words(556, 260, "Gain and loss are counted", SMALL)
    page.words(556, 282, "from z₀, and saturate.", SMALL)
    return page


def helpful_or_safe() -> Picture:
    """A question goes to the policy and its answer to two reward models: one of safety and one of
    helpfulness. The rule: safety's score where the prompt is tagged as unsafe or where safety finds
    the answer unsafe, else helpfulness's. That reward goes back to the policy. 請教我製作火藥 is
    to be refused, 請教我做一把玩具槍 is not.
    """
    page = Picture(330)
    page.box(20, 40, 190, 56, "請教我怎麼製作火藥", "to be refused", tone=GREY, size=SMALL)
    page.box(20, 112, 190, 56, "請教我做一把玩具槍", "not to be refused", tone=GREY, size=SMALL)
    page.line((214, 68), (232, 68), (232, 104), (248, 104))
    page.line((214, 140), (232, 140), (232, 104), (248, 104))
    page.box(254, 76, 92, 56, "policy", tone=BLUE)
    page.line((350, 104), (368, 104), (368, 52), (386, 52))
    page.line((350, 104), (368, 104), (368, 156), (386, 156))
    page.box(392, 24, 170, 56, "safety", "who refused what?", tone=RED, size=SMALL)
    page.box(392, 128, 170, 56, "helpfulness", "true? brief? polite?", tone=GREEN, size=SMALL)
    page.line((566, 52), (584, 52), (584, 104), (602, 104))
    page.line((566, 156), (584, 156), (584, 104), (602, 104))
    page.box(608, 68, 176, 72, "one reward", "a weight, or the rule", tone=PURPLE, size=SMALL)
    page.line((696, 144), (696, 220), (300, 220), (300, 138), tone=PURPLE)
    page.words(498, 212, "PPO", SMALL, "middle")
    page.words(
        20, 262, "The rule (Llama 2): safety has the say where the prompt is tagged as", SMALL
    )
    page.words(20, 284, "unsafe, or where safety finds the answer unsafe (below 0.15);", SMALL)
    page.words(20, 306, "everywhere else it is helpfulness.", SMALL)
    return page


def wrong_judges() -> Picture:
    """Three ways in which people can't say what is good. They are divided: 念博班還是工作？, half
    of them say the one and half the other; a mean hides it, a spread shows it. They are all wrong:
    all believe that Fiji is in Asia; the reward rises and the truth falls, unless somebody looks at
    the evidence. They agree only so far: whoever learns from them can't say what one of them says
    more often than the best guess does; that is the ceiling.
    """
    page = Picture(300)
    columns = (
        (BLUE, "divided 意見分歧", "念博班還是工作？", ("50 : 50", "mean 0, and the spread?")),
        (
            RED,
            "all wrong 判斷是錯的",
            "Where is Fiji?",
            ("“in Asia”", "all say so; who looks it up?"),
        ),
        (GREEN, "agree so far", "A or B?", ("A  A  B", "best guess: right in 2 of 3")),
    )
    below = (
        ("the policy takes one side,", "the harder, the smaller β"),
        ("reward rises, truth falls;", "evidence brings truth back"),
        ("a ceiling for every", "reward model"),
    )
    for i, ((tone, name, asked, inside), words) in enumerate(zip(columns, below)):
        left = 20 + i * 260
        page.words(left + 120, 36, name, LARGE, "middle", tone, bold=True)
        page.words(left + 120, 68, asked, SIZE, "middle")
        page.line((left + 120, 80), (left + 120, 100))
        page.box(left, 106, 240, 78, *inside, tone=tone, size=SMALL)
        page.line((left + 120, 188), (left + 120, 214))
        for j, line in enumerate(words):
            page.words(left + 120, 240 + 24 * j, line, SMALL, "middle", bold=True)
    return page


def classroom() -> Picture:
    """Thirty people rate (全班給回饋), each into a store of their own. The stores are merged into
    one: nothing twice, nothing lost, what was withdrawn stays out. From it come κ, who agrees with
    whom, a reward model for each circle of those who agree, and one of all. PPO learns from the one
    of all, and a control that learned nothing stands beside it.
    """
    page = Picture(330)
    page.words(20, 36, "全班給回饋", LARGE, bold=True)
    for i in range(5):
        page.box(20, 54 + i * 44, 118, 34, f"store {i + 1}" if i < 4 else "… 30", tone=GREY)
        page.line((142, 71 + i * 44), (214, 150))
    page.box(220, 110, 150, 84, "one store", "a union", tone=BLUE)
    page.line((374, 136), (436, 92))
    page.line((374, 168), (436, 210))
    page.box(442, 50, 150, 78, "κ", "who with whom", tone=PURPLE)
    page.box(442, 176, 150, 78, "reward models", "a circle · all", tone=GREEN)
    page.line((596, 214), (640, 214))
    page.box(646, 176, 134, 78, "PPO", "and a control", tone=RED)
    page.words(220, 226, "nothing twice, nothing lost", SMALL)
    page.words(220, 250, "withdrawn stays out", SMALL)
    page.words(20, 308, "One class has several tastes. Which does the policy learn?", bold=True)
    return page


def report_card() -> Picture:
    """The same held-out questions go to every model. Its answers are marked by the gold judge
    (right, gold mark, win rate), counted (words, hedging, apologies, refusals), scored by the
    reward model that training saw, and measured for KL, how far the policy moved. The run
    folder says what it cost: labels, seconds, adapters.
    """
    page = Picture(354)
    page.box(20, 96, 150, 76, "questions", "held out, the same", "for all", tone=GREY, size=SMALL)
    page.line((174, 134), (200, 134))
    page.box(206, 106, 92, 56, "answers", tone=BLUE)
    rows = (
        ("gold judge", "right? · gold mark · win rate", GREEN),
        ("counted", "words · hedging · apologies · refusals", PURPLE),
        ("reward model", "the score that training saw", RED),
        ("log π − log π_SFT", "KL: how far the policy moved", GREY),
    )
    for i, (who, what, tone) in enumerate(rows):
        y = 16 + i * 62
        page.line((302, 134), (318, 134), (318, y + 24), (332, y + 24))
        page.box(338, y, 150, 48, who, tone=tone, size=SMALL)
        page.words(498, y + 29, what, SMALL)
    page.line((20, 266), (780, 266), tone=RULE, head=False)
    page.box(206, 284, 92, 48, "run folder", tone=BLUE, size=SMALL)
    page.line((302, 308), (338, 308))
    page.box(344, 284, 148, 48, "what it cost", tone=GREY, size=SMALL)
    page.words(498, 313, "labels · seconds · adapters", SMALL)
    return page


PICTURES = {
    "00": stages,
    "01": chain,
    "02": conversation,
    "02-lora": lora,
    "03": games,
    "04": alphago,
    "05": feedback,
    "06": reward,
    "07": ppo,
    "08": overoptimization,
    "08b": verifiable,
    "09": dpo,
    "10": kto,
    "11": judges,
    "12": helpful_or_safe,
    "13": wrong_judges,
    "14": report_card,
    "class": classroom,
}


def alt(name: str) -> str:
    """A picture in words."""
    return " ".join(PICTURES[name].__doc__.split())


def drawn(name: str) -> str:
    """The SVG of a picture, as its file holds it."""
    return PICTURES[name]().svg(alt(name))


def markdown(name: str) -> str:
    """How a notebook's text holds it."""
    return f"![{alt(name)}](pictures/{name}.svg)"


def write(folder) -> list[Path]:
    """Write every picture into `folder`; returns the files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.svg" for name in PICTURES]
    for file in files:
        file.write_text(drawn(file.stem), "utf8")
    return files


if __name__ == "__main__":
    here = Path(__file__).parents[2] / "notebooks" / "pictures"
    print(*write(sys.argv[1] if sys.argv[1:] else here), sep="\n")
