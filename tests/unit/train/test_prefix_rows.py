"""A row of a pair, written out: two tokens of prefix, three chosen, two rejected, one of padding."""

import torch

from pipeline_lib.train.prefix_rows import predictors, restart, visible

PARTS = torch.tensor([[0, 0, 1, 1, 1, 2, 2, -1], [0, 0, 0, 1, 2, 2, 2, 2]])


def test_what_a_token_sees() -> None:
    sees = visible(PARTS)
    assert sees.shape == (2, 1, 6, 8)  # both rows begin with two tokens of prefix, which need no line
    rows = ["".join(str(int(seen)) for seen in line) for line in sees[0, 0]]
    assert rows[:5] == [
        "11100000",
        "11110000",
        "11111000",
        "11000100",  # the first token of rejected sees the prefix and itself
        "11000110",
    ]
    assert "".join(str(int(seen)) for seen in sees[1, 0, 0]) == "11100000"  # the third token of a longer prefix
    assert sees[0, 0, 5].any()  # a line without any would make attention divide by zero


def test_positions_of_rejected_follow_the_prefix() -> None:
    plain = torch.arange(8).expand(2, 8)
    assert restart(plain, PARTS).tolist() == [[0, 1, 2, 3, 4, 2, 3, 7], [0, 1, 2, 3, 3, 4, 5, 6]]
    # an image whose four tokens span two positions in each direction: text goes on behind the furthest
    image = torch.tensor([[[0, 0, 1, 1, 2, 3, 4, 5]], [[0, 1, 0, 1, 2, 3, 4, 5]]])
    parts = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]])
    assert restart(image, parts)[:, 0, 4:].tolist() == [[2, 3, 2, 3]] * 2


def test_each_token_of_an_answer_is_predicted_by_the_one_before_it() -> None:
    found = predictors(PARTS, 2, 5)
    assert found.shape == (4, 5)
    assert found[0, :3].tolist() == [1, 2, 3]  # chosen of the first pair
    assert found[1, :1].tolist() == [2]
    assert found[2, :2].tolist() == [1, 5]  # its rejected: the last token of the prefix again, then its own first
    assert found[3, :4].tolist() == [2, 4, 5, 6]
    assert int(found.max()) < 8


def test_three_answers_stand_side_by_side() -> None:
    """The second row has no third answer, the third no second one."""
    parts = torch.tensor([[0, 0, 1, 1, 2, 3, 3, 3], [0, 1, 2, 2, -1, -1, -1, -1], [0, 0, 0, 1, 3, 3, -1, -1]])
    assert restart(torch.arange(8).expand(3, 8), parts)[:, :6].tolist() == [
        [0, 1, 2, 3, 2, 2],
        [0, 1, 1, 2, 4, 5],
        [0, 1, 2, 3, 3, 4],
    ]
    sees = ["".join(str(int(seen)) for seen in line) for line in visible(parts)[0, 0]]
    assert sees[1:] == ["11100000", "11110000", "11001000", "11000100", "11000110", "11000111"]
    found = predictors(parts, 3, 4)
    assert found.shape == (9, 4)
    assert found[0, :2].tolist() == [1, 2] and found[3, :1].tolist() == [1] and found[6, :3].tolist() == [1, 5, 6]
    assert found[1, :1].tolist() == [0] and found[4, :2].tolist() == [0, 2]
    assert found[2, :1].tolist() == [2] and found[8, :2].tolist() == [2, 4]
