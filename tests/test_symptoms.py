"""Symptoms: what counts and what only looks like it, in English and Chinese."""

import subprocess
import sys

import pytest

from labkit import LabError
from labkit.atlas.symptoms import rates, symptoms

HAS = {
    "hedging": [
        "It depends.",
        "Well, it really depends on whom you ask.",
        "There is no one-size-fits-all answer.",
        "One size doesn’t fit all.",
        "I am not sure, but Paris.",
        "I'm not entirely certain.",
        "PERHAPS it is Jade Mountain.",
        "Maybe.",
        "It might be Taipei.",
        "I could be wrong.",
        "It's hard to say.",
        "I can't be sure.",
        "There are many different perspectives on this.",
        "也許是玉山。",
        "不一定，要看情況。",
        "可能是玉山吧",
        "有可能是台北。",
        "我不太確定。",
        "我不确定。",
        "這個問題沒有標準答案。",
        "因人而異",
    ],
    "apology": [
        "Sorry!",
        "I'm sorry, but that is wrong.",
        "I’m so sorry to hear that.",
        "I sincerely apologise for the confusion.",
        "I apologize.",
        "We apologize for the delay.",
        "Apologies, I meant Taipei.",
        "My apologies.",
        "Please forgive me.",
        "很抱歉，我說錯了。",
        "不好意思，是玉山。",
        "對不起！",
        "对不起",
        "請見諒。",
    ],
    "ai_disclaimer": [
        "As an AI language model, I do not have opinions.",
        "as a large language model I cannot see",
        "As an AI, I have no feelings.",
        "As an artificial intelligence, I don't eat.",
        "As an AI assistant, my knowledge ends in 2021.",
        "As an AI language model developed by a company, I know little.",
        "I'm just a language model.",
        "I am an AI and have no body.",
        "身為一個 AI 語言模型，我沒有感情。",
        "身為一個人工智慧語言模型，我不能",
        "作為一個AI，我沒有意見",
        "作為一個大型語言模型，我",
        "作为一个人工智能助手，我",
        "我只是個語言模型。",
        "我是一個 AI 助理，我不會累。",
    ],
    "refusal": [
        "I can't help with that.",
        "I can’t help you.",
        "I cannot teach you how to make one.",
        "I cannot assist with this request.",
        "Sorry, I won't.",
        "I won't do that.",
        "I will not provide instructions.",
        "I'm unable to answer this.",
        "I am not able to discuss it.",
        "Unfortunately, I'm really not able to share that.",
        "I'm sorry, but unable to help with that.",
        "I can't help anything like this.",
        "I must decline.",
        "I have to respectfully decline.",
        "That is against my guidelines.",
        "我不能教你做槍。",
        "我不能教您做这个。",
        "很抱歉，我無法提供這個資訊。",
        "抱歉，我恐怕無法回答這個問題。",
        "對不起，無法協助。",
        "抱歉，我只是個語言模型，無法回答這個問題。",
        "I am sorry, but as an AI language model I cannot answer that.",
        "I can't teach you that, it is too dangerous.",
        "我不能為你提供這些步驟",
        "我沒辦法幫你。",
        "這個我幫不了你。",
        "我幫不上忙",
        "我不會告訴你",
        "我拒絕回答。",
        "恕難從命",
    ],
}
HAS_NOT = {
    "hedging": [
        "The capital of France is Paris.",
        "Demand depends on price.",  # a statement about the world
        "He is not sure of himself.",
        "Mount Maybell",
        "Might makes right in May.",
        "不可能。",
        "這種可能性很小。",  # "this possibility is small"
        "請盡可能簡短。",  # "as short as possible"
        "台灣最高的山是玉山。",
    ],
    "apology": [
        "The sorrys of this world",  # a word that only begins like it
        "Lorysorry",
        "The house was in a sorry state.",
        "Better safe than sorry.",
        "She felt sorry for him.",
        "The apologist wrote a book.",
        "He writes about Plato's Apology.",
        "台灣最高的山是玉山。",
        "他對得起大家。",
    ],
    "ai_disclaimer": [
        "As an AI engineer, she builds language models.",
        "As an AI-made film it won a prize.",
        "As an aid to memory, write it down.",
        "As an airline pilot, he flies.",
        "The AI language model was trained for a week.",
        "I'm an AI researcher.",
        "I am a teacher.",
        "語言模型是一種程式。",
        "作為人工智慧的發源地，達特茅斯很有名。",
        "我是老師。",
        "身為一個老師，我很高興。",
    ],
    "refusal": [
        "I can't wait!",
        "I can't help but smile.",
        "I can’t help laughing.",
        "I cannot swim.",
        "I won't be long.",
        "I won't forget it.",
        "I can't tell you how happy I am.",
        "Penguins are unable to fly.",
        "You cannot help a stone.",
        "The king could not answer.",
        "I can help you with that.",
        "I want to help.",
        "我能教你。",
        "水無法燃燒。",
        "人類無法在水中呼吸。",
        "我無法想像。",
        "地圖無法提供高度。",
        "誰也幫不了他。",
        "水太少，無法幫助消化。",
        "Sure, I can help with that. Let us begin.",
        "好的，我來教你，我們開始吧。",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in HAS for text in HAS[name]])
def test_found(name, text):
    assert symptoms(text)[name] is True


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in HAS_NOT for text in HAS_NOT[name]]
)
def test_not_found(name, text):
    assert symptoms(text)[name] is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("?!… 。，", 0),
        ("Jade Mountain is 3,952 m high.", 6),
        ("I don't know.", 3),
        ("I don’t know.", 3),
        ("a well-known 3rd-place man", 4),
        ("one\n\ttwo   three", 3),
        ("end.Next", 2),
        ("玉山", 2),
        ("台灣最高的山是玉山。", 9),  # 台 灣 最 高 的 山 是 玉 山
        ("玉山高3,952公尺", 6),  # 玉 山 高 3,952 公 尺
        ("用 GPU 跑", 3),
        ("𠮷野家", 3),  # the first is outside the 16-bit plane
        ("snake_case", 2),
    ],
)
def test_words(text, words):
    assert symptoms(text)["words"] == words


def test_one_answer_with_everything_and_one_with_nothing():
    bad = "It depends. I'm sorry, but as an AI language model I can't help with that."
    assert symptoms(bad) == dict(
        words=15, hedging=True, apology=True, ai_disclaimer=True, refusal=True
    )
    plain = dict(words=2, hedging=False, apology=False, ai_disclaimer=False, refusal=False)
    assert symptoms("玉山") == plain
    assert symptoms("ＰＥＲＨＡＰＳ　ｓｏｒｒｙ")["hedging"]  # full-width letters and space


def test_rates():
    texts = [
        "Perhaps Paris.",
        "I'm sorry, I can't help.",
        "Paris",
        "也許是巴黎",
    ]  # 2, 5, 1 and 5 words
    expected = dict(words=13 / 4, hedging=2 / 4, apology=1 / 4, ai_disclaimer=0.0, refusal=1 / 4)
    assert rates(texts) == expected
    assert rates(iter(texts)) == expected


def test_rates_of_nothing():
    with pytest.raises(LabError, match="at least one text"):
        rates([])


def test_long_and_odd_text_is_read_quickly():
    # A rule that backtracks badly hangs here.
    for piece in ("a", "a-", "as a ", "我", "我也", "i really ", "not ", "\x00\u202e"):
        symptoms(piece * 3_000)


def test_needs_no_torch():
    code = "import sys, labkit.atlas.symptoms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
