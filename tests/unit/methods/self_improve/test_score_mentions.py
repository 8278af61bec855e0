"""Which numbers of an explanation are scores: sentences as models write them."""

import pytest

from pipeline_lib.methods.self_improve.score_mentions import mentioned_scores


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        # as a share of the scale
        ("The image earns 6 out of 9 for its light.", {6}),
        ("Overall it is a 6/9.", {6}),
        ("I would put it at six out of ten.", {6}),
        ("It gets 7 points out of 9.", {7}),
        # behind a word for a score
        ("This leads to a score of 6, which reflects its quality.", {6}),
        ("The image was given a score of 6 out of 9.", {6}),
        ("Rating: 6. The light is fine.", {6}),
        ("The photo is rated about six.", {6}),
        ("It scores a 3 because of the blur.", {3}),
        ("The score is 7.", {7}),
        ('The aesthetic score is "8".', {8}),
        ("The score of 2 is due to noise, not a score of 5.", {2, 5}),
        # before one
        ("A 6 rating is fair.", {6}),
        ("It deserves the 5 score.", {5}),
        # ranges
        ("It falls in the 4 to 5 range.", {4, 5}),
        ("A score between 4 and 5 is right.", {4, 5}),
        ("Rated 4-5 for its plain light.", {4, 5}),
        # with an article, or a bare digit, where nothing is counted
        ("It earns a solid 7.", {7}),
        ("I gave it a five, because the sky is flat.", {5}),
        ("Overall 6.", {6}),
        ("I would say 6, since the focus is soft.", {6}),
        # counts, places, settings, parts of other numbers
        ("Two people stand beside 3 trees.", set()),
        ("There are 2 boats and one house.", set()),
        ("One of the best photographs, with four strong colours.", set()),
        ("The rating is one of the highest.", set()),
        ("There are three points of interest.", set()),
        ("Shot at f/8, 1/250 s, 35mm, with 8K detail and a 3 second exposure.", set()),
        ("It would score two points lower without the sky.", set()),
        ("The score reflects two things: light and colour.", set()),
        ("It has a low score: the two people are blurred.", set()),
        ("I rate the image 4.", {4}),
        ("Seen in figure 3.", set()),
        ("The image ratio is 4:3 and its weight 6.5 grams, in 2024.", set()),
        ("A score of 6.5 would be right.", set()),
        ("The picture shows 4 out of 5 dancers.", set()),
        # the scale, and lists
        ("On a scale of 0 to 9 it is weak.", set()),
        ("On a scale from 0-9, it gets a 4.", {4}),
        ("Strengths: 1. Light. 2. Colour. 3) Focus.", set()),
        ("", set()),
    ],
)
def test_scores_are_told_from_counts(text: str, scores: set[int]) -> None:
    assert mentioned_scores(text) == scores
