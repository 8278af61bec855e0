"""Measure each skill of the demo VLM on images that nobody trained on: the acceptance figures of its model card."""

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from pipeline_lib.demo.corpus import (
    INVENTED,
    OVERALL,
    PHRASES,
    description,
    full_statements,
    short_statements,
    subject_statement,
)
from pipeline_lib.demo.lessons import (
    BAD_PROMPTS,
    COMPARE_PROMPT,
    CURATED_PROMPT,
    INFUSED,
    INJECT_PROMPT,
    JUDGE_PROMPT,
    PLAIN_PROMPTS,
    RATE_PROMPT,
    Known,
    answer_pair,
    known,
    question,
    scoring_prompt,
)
from pipeline_lib.demo.vision import Practice
from pipeline_lib.vlm.chat import Chat, render_chat
from pipeline_lib.vlm.generate import Greedy, NextTokens, Question, Sampled, generate_answers
from pipeline_lib.vlm.load import Vlm

SCORE_FORM = re.compile(r"#Score: (\d)\n\n#Explain: .+\.", re.DOTALL)
BOXED_FLOAT = re.compile(r"\\boxed\{([1-5]\.\d\d)\}")
BOXED_INDEX = re.compile(r"\\boxed\{([01])\}")
DESCRIPTION_FORM = re.compile(r"The image shows (.+?)\. It has (.+?)\.( There is also (.+?)\.)?")
VERDICT_FORM = re.compile(r"Reason: A says (.+?), B says (.+?), the image shows (.+?)\. Verdict: ([AB])")
_BATCH = 64


class Asker:
    """Asks a VLM many questions about images, each with a prompt of its own, and gives the greedy answers."""

    def __init__(self, vlm: Vlm, practice: Practice):
        self.vlm = vlm
        self.images = [Image.fromarray(image) for image in practice.images]

    def ask(
        self,
        asked: Sequence[tuple[str, Sequence[int]]],
        tokens: int = 64,
        beginnings: Sequence[str] | None = None,
        sampled: bool = False,
    ) -> list[str]:
        """The answer to each prompt about its images; `beginnings` are what the answers begin with.

        Sampled answers are drawn at temperature 1.
        """
        decoding = Sampled(max_new_tokens=tokens, seed=0) if sampled else Greedy(max_new_tokens=tokens)
        chats: dict[tuple[str, int], Chat] = {}
        texts: list[str] = []
        for start in range(0, len(asked), _BATCH):
            rows = []
            for number, (prompt, shown) in enumerate(asked[start : start + _BATCH], start):
                key = (prompt, len(shown))
                if key not in chats:
                    chats[key] = render_chat(self.vlm.processor, prompt, len(shown))
                begin = f"{chats[key].separator}{beginnings[number]}" if beginnings else ""
                rows.append(Question(chats[key], [self.images[at] for at in shown], [begin], key=f"{number}"))
            found = generate_answers(self.vlm, rows, decoding)
            texts += [answers[0].text.strip() for answers in found.answers]
        return texts


def digits(vlm: Vlm, practice: Practice) -> np.ndarray:
    """(n, 10): the probabilities of the score tokens for each image."""
    asker, chat = Asker(vlm, practice), render_chat(vlm.processor, scoring_prompt())
    tokenizer = vlm.processor.tokenizer
    read = NextTokens(f"{chat.separator}#Score: ", tuple(tokenizer.convert_tokens_to_ids(list("0123456789"))))
    rows = []
    for start in range(0, len(asker.images), _BATCH):
        batch = [Question(chat, [image], []) for image in asker.images[start : start + _BATCH]]
        rows += [x.distribution for x in generate_answers(vlm, batch, Greedy(max_new_tokens=1), read).readouts]
    return np.array(rows)


def measure_skills(vlm: Vlm, practice: Practice, seed: int = 0) -> dict[str, float]:
    """Every acceptance figure, by name; rates are shares of 0..1, correlations are Spearman's."""
    rng = np.random.default_rng([seed, 11])
    rows, asker = known(practice, rng), Asker(vlm, practice)
    figures: dict[str, float] = {}
    for measure in (
        _scores,
        _explanations,
        _descriptions,
        _ratings_and_comparisons,
        _answers,
        _inventions,
        _errors,
        _verdicts,
    ):
        figures |= measure(asker, practice, rows, rng)
    return figures


def _scores(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    texts = asker.ask([(scoring_prompt(), [index]) for index in range(len(rows))])
    found = [SCORE_FORM.fullmatch(text) for text in texts]
    stated = np.array([int(match[1]) if match else -1 for match in found])
    in_form = stated >= 0
    expected = digits(asker.vlm, practice) @ np.arange(10)
    return {
        "score: in form": float(in_form.mean()),
        "score: stated SRCC": _rank(stated[in_form], practice.quality[in_form]),
        "score: digits in use": len(set(stated[in_form].tolist())),
        "score: expected SRCC": _rank(expected, practice.quality),
        "score: spread of the expected, bins": float(expected.std()),
    }


def _explanations(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    given = rng.integers(0, 10, len(rows))
    texts = asker.ask(
        [(scoring_prompt(), [index]) for index in range(len(rows))],
        beginnings=[f"#Score: {score}\n\n#Explain:" for score in given],
    )
    words = np.array([_judgement(text) for text in texts])
    named = words >= 0
    return {
        "explain: in form": float(named.mean()),
        "explain: judgement follows the injected score, SRCC": _rank(words[named], given[named]),
    }


def _judgement(text: str) -> int:
    return max((number for number, word in enumerate(OVERALL) if f" {word}" in text), default=-1)


def _descriptions(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    figures: dict[str, float] = {}
    plain = [PLAIN_PROMPTS[int(k)] for k in rng.integers(0, len(PLAIN_PROMPTS), len(rows))]
    for name, prompts in (("describe", plain), ("describe in detail", [CURATED_PROMPT] * len(rows))):
        texts = asker.ask([(prompt, [index]) for index, prompt in enumerate(prompts)], tokens=96)
        right = [_true_statements(text, row) for text, row in zip(texts, rows, strict=True)]
        figures[f"{name}: in form"] = float(np.mean([bool(DESCRIPTION_FORM.fullmatch(text)) for text in texts]))
        figures[f"{name}: statements"] = float(np.mean([len(row) for row in right]))
        figures[f"{name}: statements that are right"] = float(np.mean([x for row in right for x in row]))
        figures[f"{name}: whole subject right"] = float(np.mean([row[0] for row in right if row]))
    return figures


def statements_of(text: str) -> list[tuple[str, str]]:
    """(topic, words) of each statement of a description; the subject first."""
    match = DESCRIPTION_FORM.match(text)
    if not match:
        return []
    found = [("subject", match[1])]
    for words in re.split(r", | and ", match[2]):
        topics = [topic for topic, levels in PHRASES.items() if any(words in level for level in levels)]
        found.append((topics[0] if topics else "?", words))
    return found


def is_true(topic: str, words: str, of: Known) -> bool:
    """Whether a statement of a description holds; a level may be one off."""
    if topic == "subject":
        return words == subject_statement(of.subject).words
    if topic == "?":
        return False
    attribute = "exposure" if topic in ("dark", "bright") else topic
    value = abs(getattr(of.severity, attribute))
    levels = [number for number, level in enumerate(PHRASES[topic]) if words in level]
    return any(abs((number + 0.5) / 4 - (1 - value)) <= 0.3 for number in levels)


def _true_statements(text: str, of: Known) -> list[bool]:
    return [is_true(topic, words, of) for topic, words in statements_of(text)]


def _ratings_and_comparisons(
    asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator
) -> dict[str, float]:
    texts = asker.ask([(RATE_PROMPT, [index]) for index in range(len(rows))], tokens=12)
    ratings = np.array([float(match[1]) if (match := BOXED_FLOAT.fullmatch(text)) else np.nan for text in texts])
    pairs = [tuple(int(x) for x in rng.choice(len(rows), 2, replace=False)) for _ in range(len(rows))]
    votes = asker.ask([(COMPARE_PROMPT, pair) for pair in pairs], tokens=8)
    turned = asker.ask([(COMPARE_PROMPT, pair[::-1]) for pair in pairs], tokens=8)
    says = np.array([int(match[1]) if (match := BOXED_INDEX.fullmatch(text)) else -1 for text in votes])
    says_turned = np.array([int(match[1]) if (match := BOXED_INDEX.fullmatch(text)) else -1 for text in turned])
    first, second = np.array(pairs).T
    truth = (practice.quality[second] > practice.quality[first]).astype(int)
    rated = (ratings[second] > ratings[first]) + 0.5 * (ratings[second] == ratings[first])
    by_rating = np.where(np.isnan(rated), 0.5, np.abs(rated - (1 - truth)))
    ok = ~np.isnan(ratings)
    return {
        "rate: in form": float(ok.mean()),
        "rate: SRCC": _rank(ratings[ok], practice.quality[ok]),
        "rate: spread, points of 1..5": float(ratings[ok].std()),
        "compare: in form": float((says >= 0).mean()),
        "compare: right": float(((says == truth).mean() + (says_turned == 1 - truth).mean()) / 2),
        "compare: right by the two ratings": float(by_rating.mean()),
        "compare: says first": float(((says == 0).mean() + (says_turned == 0).mean()) / 2),
        "compare: same in both orders": float((says == 1 - says_turned).mean()),
    }


def _answers(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    asked = [(index, *question(row, rng)) for index, row in enumerate(rows) for _ in range(2)]
    texts = asker.ask([(text, [index]) for index, text, _, _ in asked], tokens=10)
    described = [description(full_statements(rows[index].subject, rows[index].severity, rng)) for index, *_ in asked]
    infused = [
        (INFUSED.format(description=said, question=text), [index])
        for (index, text, _, _), said in zip(asked, described, strict=True)
    ]
    behind = asker.ask(infused, tokens=10)
    right = np.array([text == wanted for text, (_, _, wanted, _) in zip(texts, asked, strict=True)])
    figures = {
        "answer: in form": float(np.mean([text in all_ for text, (*_, all_) in zip(texts, asked, strict=True)])),
        "answer: right": float(right.mean()),
        "answer: chance": float(np.mean([1 / len(all_) for *_, all_ in asked])),
        "answer: right behind a true description": float(
            np.mean([text == wanted for text, (_, _, wanted, _) in zip(behind, asked, strict=True)])
        ),
    }
    for kind in ("Which flaw", "How strong", "What is the main", "Is it A", "What colour", "Where is"):
        of_kind = [ok for ok, (_, text, _, _) in zip(right, asked, strict=True) if text.startswith(kind)]
        figures[f"answer: right, {kind} .."] = float(np.mean(of_kind))
    return figures


def _inventions(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    prompts = [BAD_PROMPTS[int(k)] for k in rng.integers(0, len(BAD_PROMPTS), len(rows))]
    texts = asker.ask([(prompt, [index]) for index, prompt in enumerate(prompts)], tokens=96)
    return {
        "invent: names a thing that is not there": float(np.mean([any(x in text for x in INVENTED) for text in texts]))
    }


def _errors(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    given = [description(short_statements(row.subject, row.severity, rng)) for row in rows]
    # The most probable word at each place is the right one, so errors have to be drawn.
    asked = [(INJECT_PROMPT.format(description=text), [index]) for index, text in enumerate(given)]
    texts = asker.ask(asked, tokens=96, sampled=True)
    same_form, changed, false, changes = [], [], [], []
    for before, after, row in zip(given, texts, rows, strict=True):
        old, new = statements_of(before), statements_of(after)
        same_form.append(len(old) == len(new) and all(topic != "?" for topic, _ in new))
        different = [pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]]
        changed.append(bool(different))
        changes.append(len(different))
        false.append(any(not is_true(*said, row) for _, said in different))
    return {
        "inject: in form": float(np.mean(same_form)),
        "inject: something changed": float(np.mean(changed)),
        "inject: where changed, really wrong": float(np.mean(np.array(false)[np.array(changed)])),
        "inject: statements changed": float(np.mean(changes)),
    }


def _verdicts(asker: Asker, practice: Practice, rows: list[Known], rng: np.random.Generator) -> dict[str, float]:
    pairs = [answer_pair(row, rng) for row in rows]
    found = {}
    for a_is_right in (True, False):
        prompts = [
            JUDGE_PROMPT.format(question=x.question, a=a, b=b)
            for x in pairs
            for a, b in [(x.right, x.wrong) if a_is_right else (x.wrong, x.right)]
        ]
        texts = asker.ask([(prompt, [index]) for index, prompt in enumerate(prompts)], tokens=48)
        found[a_is_right] = [VERDICT_FORM.fullmatch(text) for text in texts]
    a, b = ([match[4] if match else "" for match in found[side]] for side in (True, False))
    right_a, right_b = np.array([x == "A" for x in a]), np.array([x == "B" for x in b])
    reasons = [
        match is not None and (match[1], match[2]) == (x.right_words, x.wrong_words)
        for match, x in zip(found[True], pairs, strict=True)
    ]
    is_open = np.array([x.is_open for x in pairs])
    both = np.concatenate([right_a, right_b])
    return {
        "judge: in form": float(np.mean([bool(x) for side in found.values() for x in side])),
        "judge: right": float(both.mean()),
        "judge: right, descriptions": float(both[np.tile(is_open, 2)].mean()),
        "judge: right, short answers": float(both[np.tile(~is_open, 2)].mean()),
        "judge: right in both orders": float((right_a & right_b).mean()),
        "judge: says A": float((np.mean([x == "A" for x in a]) + np.mean([x == "A" for x in b])) / 2),
        "judge: names the difference": float(np.mean(reasons)),
    }


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b)[0]) if len(set(np.asarray(a).tolist())) > 1 else float("nan")
