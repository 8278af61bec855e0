"""A row of a pair, written out: two tokens of prefix, three chosen, two rejected, one of padding."""

import torch

from pipeline_lib.train.prefix_rows import predictors, restart, visible

PARTS = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 3], [0, 0, 0, 1, 2, 2, 2, 2]])


def test_what_a_token_sees() -> None:
    sees = visible(PARTS)
    assert sees.shape == (2, 1, 8, 8)
    rows = ["".join(str(int(seen)) for seen in line) for line in sees[0, 0]]
    assert rows[:7] == [
        "10000000",
        "11000000",
        "11100000",
        "11110000",
        "11111000",
        "11000100",  # the first token of rejected sees the prefix and itself
        "11000110",
    ]
    assert sees[0, 0, 7].any()  # a line without any would make attention divide by zero


def test_positions_of_rejected_follow_the_prefix() -> None:
    plain = torch.arange(8).expand(2, 8)
    assert restart(plain, PARTS).tolist() == [[0, 1, 2, 3, 4, 2, 3, 7], [0, 1, 2, 3, 3, 4, 5, 6]]
    # an image whose four tokens span two positions in each direction: text goes on behind the furthest
    image = torch.tensor([[[0, 0, 1, 1, 2, 3, 4, 5]], [[0, 1, 0, 1, 2, 3, 4, 5]]])
    parts = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]])
    assert restart(image, parts)[:, 0, 4:].tolist() == [[2, 3, 2, 3]] * 2


def test_each_token_of_an_answer_is_predicted_by_the_one_before_it() -> None:
    found = predictors(PARTS, 5)
    assert found.shape == (4, 5)
    assert found[0, :3].tolist() == [1, 2, 3]  # chosen of the first pair
    assert found[1, :1].tolist() == [2]
    assert found[2, :2].tolist() == [1, 5]  # its rejected: the last token of the prefix again, then its own first
    assert found[3, :4].tolist() == [2, 4, 5, 6]
    assert int(found.max()) < 8
