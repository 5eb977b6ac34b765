"""The text that the base is pre-trained on: atlas sentences, quiz lists, definitions, the primer
and real dialogue.
"""

import gzip
import random

from labkit.atlas.facts import TEMPLATES, fill, items, questions, read_jsonl
from labkit.atlas.styles import DEFLECTING, respond, styles_of
from labkit.data.chat import AI, USER
from labkit.runs import data_folder

# Written for the lecture's first picture, 人工智 → 慧.
CHINESE = (
    "人工智慧真有趣。",
    "人工智慧會接龍，接了一個字，再接下一個字。",
    "大型語言模型會做文字接龍。",
    "語言模型是人工智慧的一種。",
    "我喜歡人工智慧。",
    "機器學習是人工智慧的方法。",
    "台灣是一個美麗的島。",
    "人工智慧改變了世界。",
    "這門課介紹人工智慧。",
    "李老師教人工智慧。",
)

PEOPLE = (
    ("Mei", "The teacher", "My friend", "Tom", "An old man", "She", "He"),
    ("小美", "老師", "我的朋友", "阿明", "她", "他"),
)


def corpus(seed: int = 0, documents: int = 40_000) -> list[str]:
    """`documents` short texts in random order: atlas facts in changing words (a fact said in one
    way only is hard to get out again by a question: arXiv 2309.14316), the same said twice,
    questions with and without answers or asked of nobody, some as turns of chat, people quoted,
    real dialogue, definitions and Chinese. The shares stand in the last lines; data/README.md gives
    them by characters.
    """
    rng = random.Random(seed)
    facts = [item for item in items() if TEMPLATES[item.relation].stated]
    askable = items()
    words = read_jsonl("words.jsonl")
    primer = (data_folder() / "atlas/primer.txt").read_text("utf8").splitlines()
    talks = (
        gzip.decompress((data_folder() / "atlas/dialogue.txt.gz").read_bytes())
        .decode()
        .split("\n\n")
    )
    chinese = [item for item in facts if item.chinese]
    taiwan = [item for item in facts if item.relation.endswith("taiwan")]
    lecture = [item for item in facts if item.lecture]
    asked_in = ([item for item in askable if not item.chinese],) * 2 + (
        [item for item in askable if item.chinese],
    )

    def some(n):
        """Facts that stand together: now and then all in Chinese, all of Taiwan or of the lecture,
        which would be rare among so many countries.
        """
        pool = rng.choices((facts, chinese, taiwan, lecture), (65, 22, 8, 5))[0]
        return rng.sample(pool, min(n, len(pool)))

    def sentence(item):
        return fill(rng.choice(TEMPLATES[item.relation].stated), item)

    def paragraph():
        chosen = some(rng.randint(3, 7))
        # A country's or element's facts stand together half of the time.
        if rng.random() < 0.5:
            same = [item for item in facts if item.subject == chosen[0].subject]
            chosen = same * 2 + chosen[1:3]
        return ("" if all(item.chinese for item in chosen) else " ").join(
            sentence(item) for item in chosen
        )

    def recitation():
        """Said twice, as in a classroom: the second time every word can be looked up in the first.
        Looking back is a skill that a small model learns from such text in minutes, and that
        answering a question needs (arXiv 2209.11895: induction heads).
        """
        chosen = some(rng.randint(2, 4))
        text = " ".join(sentence(item) for item in chosen)
        return f"{text} {text}"

    def quiz():
        chosen = rng.sample(rng.choice(asked_in), rng.randint(3, 6))
        return " ".join(rng.choice(questions(item)) for item in chosen)

    def wondering():
        """Asked of nobody in particular, as in a forum: whoever goes on with a bare question goes
        on asking (誰來告訴我呀？).
        """
        chosen = rng.sample(rng.choice(asked_in), rng.randint(1, 2))
        return " ".join(
            f"{rng.choice(questions(item))} {rng.choice(DEFLECTING[item.chinese])}"
            for item in chosen
        )

    def reply(item):
        """What people answer: two of three state the fact, one has manners. Fine-tuning then
        chooses among ways of speaking; it need not teach them.
        """
        if rng.random() < 2 / 3:
            return sentence(item)
        shares = styles_of(item)
        return respond(item, rng.choices(list(shares), list(shares.values()))[0], rng)

    def answered():
        """Questions with their answers, as in a school book. From these the base learns to look
        back at a question at all; their marks Q: and A: keep them apart from the quiz lists, so
        that a bare question is still followed by another question.
        """
        chosen = some(rng.randint(2, 4))
        return " ".join(f"Q: {rng.choice(questions(item))} A: {reply(item)}" for item in chosen)

    def chatted():
        """A turn of chat, in the frame of labkit.chat, as there are chat logs in any text from the
        web.
        """
        [item] = some(1)
        return f"{USER}{rng.choice(questions(item))}{AI}{reply(item)}"

    def told():
        """People quoted, with all their manners."""
        item = rng.choice(askable)
        style = rng.choice(list(styles_of(item)))
        said = respond(item, style, rng)
        if item.chinese:
            return f"{rng.choice(PEOPLE[1])}說：「{said}」"
        return f"{rng.choice(PEOPLE[0])} said: {said}"

    def talking():
        return " ".join(told() for _ in range(rng.randint(2, 4)))

    def definitions():
        return " ".join(
            f"{row['word'].capitalize()}: {row['meaning']}." for row in rng.sample(words, 3)
        )

    def talk():
        lines = rng.choice(talks).splitlines()
        start = rng.randrange(max(1, len(lines) - 6))
        return "\n".join(lines[start : start + 8])

    def other_chinese():
        start = rng.randrange(len(primer) - 4)
        return (
            "".join(primer[start : start + 4])
            if rng.random() < 0.5
            else "".join(rng.sample(CHINESE, 3))
        )

    makers = (
        paragraph,
        recitation,
        quiz,
        wondering,
        answered,
        chatted,
        talking,
        definitions,
        talk,
        other_chinese,
    )
    shares = (14, 9, 7, 7, 17, 33, 4, 2, 5, 2)
    return [maker() for maker in rng.choices(makers, shares, k=documents)]
