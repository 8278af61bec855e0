"""Generation and the score distribution: batches change nothing, the model's own sampling settings do not leak in."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline_lib.methods.self_improve.answer import answer_prefix
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.testing.tiny import PROMPT, build_model, build_processor, model_ref, picture, sentencepiece_tokenizer
from pipeline_lib.vlm.chat import Chat, render_chat, tokens
from pipeline_lib.vlm.generate.inputs import answer_tokens
from pipeline_lib.vlm.load import Vlm, load_base
from tests.asking import generate_greedy, read_scores

CPU = torch.device("cpu")
BEGINNINGS = ["", " " + answer_prefix(3), "", " " + answer_prefix(8) + " The picture", " #Score: "]


@pytest.fixture(scope="module")
def vlm(tiny_model: Path) -> Vlm:
    return load_base(model_ref(tiny_model), CPU)


@pytest.fixture(scope="module")
def chat(vlm: Vlm) -> Chat:
    return render_chat(vlm.processor, PROMPT)


def inputs(vlm: Vlm, image: str, text: str):  # type: ignore[no-untyped-def]
    return vlm.processor(images=picture(image), text=text, add_special_tokens=False, return_tensors="pt")


def greedy(vlm: Vlm, image: str, text: str, steps: int) -> list[int]:
    """Greedy decoding by hand: a whole forward pass for each token; the image token is never chosen."""
    given = dict(inputs(vlm, image, text))
    out: list[int] = []
    while len(out) < steps:
        with torch.no_grad():
            logits = vlm.model(**given).logits[0, -1]
        logits[vlm.processor.image_token_id] = -torch.inf
        out.append(int(logits.argmax()))
        if out[-1] == vlm.processor.tokenizer.eos_token_id:
            break
        given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([[out[-1]]])], dim=1)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    return out


def test_a_batch_gives_what_single_generations_give(vlm: Vlm, chat: Chat) -> None:
    pictures = [picture(f"{n}", side_px=12 + n) for n in range(5)]
    batch = generate_greedy(vlm, chat, pictures, BEGINNINGS, 10)
    single = [generate_greedy(vlm, chat, [p], [b], 10)[0] for p, b in zip(pictures, BEGINNINGS, strict=True)]
    assert batch == single
    assert len({result.text for result in batch}) == 5


def test_generation_is_greedy_decoding_of_prompt_and_beginning(vlm: Vlm, chat: Chat) -> None:
    tokenizer = vlm.processor.tokenizer
    for n, beginning in enumerate(BEGINNINGS):
        out = greedy(vlm, f"{n}", chat.prompt + beginning, 8)
        result = generate_greedy(vlm, chat, [picture(f"{n}")], [beginning], 8)[0]
        assert result.tokens == len(out)
        assert result.finished == (out[-1] == tokenizer.eos_token_id)
        assert result.text == tokenizer.decode(out, skip_special_tokens=True)
        assert result.prompt_tokens == inputs(vlm, f"{n}", chat.prompt + beginning)["input_ids"].shape[1]


def test_an_answer_ends_at_any_end_token_of_the_model(vlm: Vlm, chat: Chat) -> None:
    plain = generate_greedy(vlm, chat, [picture("a")], [""], 8)[0]
    assert plain.tokens == 8 and not plain.finished
    third = greedy(vlm, "a", chat.prompt, 3)[2]
    own = vlm.model.generation_config.eos_token_id
    try:
        vlm.model.generation_config.eos_token_id = [own, third]
        result = generate_greedy(vlm, chat, [picture("a"), picture("b")], ["", ""], 8)[0]
    finally:
        vlm.model.generation_config.eos_token_id = own
    assert (result.tokens, result.finished) == (3, True)


def test_the_image_token_is_never_written(vlm: Vlm, chat: Chat) -> None:
    token = vlm.processor.image_token_id
    head = vlm.model.lm_head
    row = head.weight[token].clone()
    with torch.no_grad():
        hidden = vlm.model.model(**inputs(vlm, "a", chat.prompt)).last_hidden_state[0, -1]
        head.weight[token] = hidden * 100
        assert int(vlm.model(**inputs(vlm, "a", chat.prompt)).logits[0, -1].argmax()) == token
    try:
        text = generate_greedy(vlm, chat, [picture("a")], [""], 8)[0].text
        assert text == vlm.processor.tokenizer.decode(greedy(vlm, "a", chat.prompt, 8), skip_special_tokens=True)
    finally:
        with torch.no_grad():
            head.weight[token] = row


def test_the_models_own_sampling_settings_do_not_leak_in(
    tiny_model: Path, tmp_path: Path, vlm: Vlm, chat: Chat
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "sampling"))
    own = load_base(model_ref(folder), CPU).model.generation_config
    own.do_sample, own.temperature, own.top_k, own.top_p, own.repetition_penalty = True, 2.0, 7, 0.7, 3.0
    own.no_repeat_ngram_size, own.num_beams, own.min_new_tokens, own.max_length = 1, 3, 12, 9
    own.bad_words_ids = [[token] for token in greedy(vlm, "0", chat.prompt, 4)]
    own.save_pretrained(folder)
    assert '"temperature": 2.0' in (folder / "generation_config.json").read_text()
    other = load_base(model_ref(folder), CPU)
    pictures = [picture(f"{n}") for n in range(5)]
    wanted = generate_greedy(vlm, chat, pictures, BEGINNINGS, 10)
    torch.manual_seed(1)
    assert generate_greedy(other, chat, pictures, BEGINNINGS, 10) == wanted


def test_the_blank_before_the_first_word_is_kept() -> None:
    """A tokenizer whose decoder drops the first blank of a text must not eat the one behind '#Explain:'."""
    tokenizer = sentencepiece_tokenizer()
    vlm = Vlm(build_model(tokenizer), build_processor(tokenizer), CPU)
    chat = render_chat(vlm.processor, PROMPT)
    word = tokenizer.convert_tokens_to_ids("▁The")
    with torch.no_grad():
        beginning = chat.prompt + " " + answer_prefix(7)
        hidden = vlm.model.model(**inputs(vlm, "a", beginning)).last_hidden_state[0, -1]
        vlm.model.lm_head.weight[word] = hidden * 100
    result = generate_greedy(vlm, chat, [picture("a")], [" " + answer_prefix(7)], 1)[0]
    assert (result.text, result.tokens) == (" The", 1)
    answer = chat.answer(answer_prefix(7) + result.text, finished=False)
    assert len(tokens(tokenizer, answer)) == answer_tokens(vlm, " " + answer_prefix(7)) + result.tokens


def test_scores_are_the_softmax_over_the_ten_digits(vlm: Vlm, chat: Chat) -> None:
    scores = resolve_score_tokens(vlm.processor.tokenizer, chat)
    pictures = [picture(f"{n}", side_px=12 + n) for n in range(3)]
    readouts = read_scores(vlm, chat, scores, pictures)
    for n, readout in enumerate(readouts):
        given = vlm.processor(
            images=pictures[n], text=chat.prompt + " #Score: ", add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            logits = vlm.model(**given).logits[0, -1].double()
        digits = torch.stack([logits[vlm.processor.tokenizer.convert_tokens_to_ids(str(d))] for d in range(10)])
        assert readout.distribution == pytest.approx((digits.exp() / digits.exp().sum()).tolist(), rel=1e-4)
        assert readout.mass == pytest.approx(float(digits.exp().sum() / logits.exp().sum()), rel=1e-4)
        assert sum(readout.distribution) == pytest.approx(1)
    assert readouts[0] != readouts[1]
