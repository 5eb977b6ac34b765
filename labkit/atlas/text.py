"""The text that the base is pre-trained on: atlas sentences, quiz lists, definitions, the primer and real dialogue."""

import gzip
import random

from labkit.atlas.facts import TEMPLATES, fill, items, questions, read_jsonl
from labkit.runs import data_folder

# Written for the lecture's first picture, 人工智 → 慧.
CHINESE = ("人工智慧真有趣。", "人工智慧會接龍，接了一個字，再接下一個字。", "大型語言模型會做文字接龍。", "語言模型是人工智慧的一種。", "我喜歡人工智慧。",
           "機器學習是人工智慧的方法。", "台灣是一個美麗的島。", "人工智慧改變了世界。", "這門課介紹人工智慧。", "李老師教人工智慧。")  # fmt: skip


def corpus(seed: int = 0, documents: int = 40_000) -> list[str]:
    """`documents` short texts in random order. 28 % are atlas facts in changing words (a fact said in one way only is hard to get out
    again by a question: arXiv 2309.14316), 12 % the same said twice, 12 % lists of questions without answers, 30 % questions with
    theirs, the rest real dialogue (10 %), definitions and Chinese."""
    rng = random.Random(seed)
    facts = [item for item in items() if TEMPLATES[item.relation].stated]
    askable = items()
    words = read_jsonl("words.jsonl")
    primer = (data_folder() / "atlas/primer.txt").read_text("utf8").splitlines()
    talks = gzip.decompress((data_folder() / "atlas/dialogue.txt.gz").read_bytes()).decode().split("\n\n")
    chinese = [item for item in facts if item.chinese]

    def sentence(item):
        return fill(rng.choice(TEMPLATES[item.relation].stated), item)

    def paragraph():
        pool = chinese if rng.random() < 0.15 else facts
        chosen = rng.sample(pool, rng.randint(3, 7))
        # A country's or element's facts stand together half of the time.
        if rng.random() < 0.5:
            same = [item for item in facts if item.subject == chosen[0].subject]
            chosen = same * 2 + chosen[1:3]
        return ("" if all(item.chinese for item in chosen) else " ").join(sentence(item) for item in chosen)

    def recitation():
        """Said twice, as in a classroom: the second time every word can be looked up in the first. Looking back is a skill that a small
        model learns from such text in minutes, and that answering a question needs (arXiv 2209.11895: induction heads)."""
        chosen = rng.sample(chinese if rng.random() < 0.15 else facts, rng.randint(2, 4))
        text = " ".join(sentence(item) for item in chosen)
        return f"{text} {text}"

    def quiz():
        relation_pool = [item for item in askable if item.chinese] if rng.random() < 0.25 else askable
        return " ".join(rng.choice(questions(item)) for item in rng.sample(relation_pool, rng.randint(3, 6)))

    def answered():
        """Questions with their answers, as in a school book. From these the base learns to look back at a question at all; their
        marks Q: and A: keep them apart from the quiz lists, so that a bare question is still followed by another question."""
        chosen = rng.sample(chinese if rng.random() < 0.15 else facts, rng.randint(2, 4))
        return " ".join(f"Q: {rng.choice(questions(item))} A: {sentence(item)}" for item in chosen)

    def definitions():
        return " ".join(f"{row['word'].capitalize()}: {row['meaning']}." for row in rng.sample(words, 3))

    def talk():
        lines = rng.choice(talks).splitlines()
        start = rng.randrange(max(1, len(lines) - 6))
        return "\n".join(lines[start : start + 8])

    def other_chinese():
        start = rng.randrange(len(primer) - 4)
        return "".join(primer[start : start + 4]) if rng.random() < 0.5 else "".join(rng.sample(CHINESE, 3))

    makers = (paragraph, recitation, quiz, answered, definitions, talk, other_chinese)
    return [maker() for maker in rng.choices(makers, (28, 12, 12, 30, 5, 10, 3), k=documents)]
