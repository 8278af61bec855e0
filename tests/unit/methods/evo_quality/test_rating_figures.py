"""Figures of ratings and votes, the report and the controls, from tables that the tests make."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from scipy.stats import kendalltau, pearsonr, spearmanr

from pipeline_lib.config.base import Bootstrap
from pipeline_lib.errors import DataError
from pipeline_lib.methods.evo_quality.controls import control_figures, control_grid, gain_sentence
from pipeline_lib.methods.evo_quality.figures import agreement_metrics, rating_metrics, srcc_change, vote_figures
from pipeline_lib.methods.evo_quality.ratings import rated
from pipeline_lib.methods.evo_quality.recipe import EvoQualityRecipe
from pipeline_lib.methods.evo_quality.report import Results, RoundResults, report_page, results_text
from pipeline_lib.methods.evo_quality.tables import RATINGS, VOTES
from pipeline_lib.methods.evo_quality.training import images_of_pairs, units_of
from pipeline_lib.methods.evo_quality.votes import Vote, counted_row
from pipeline_lib.report.page import render_page

CONFIG = Bootstrap(bootstrap_samples=200)
COUNT = 60
RNG = np.random.default_rng(0)
SCORES = RNG.uniform(1, 10, COUNT).round(3)


def image(at: int) -> dict[str, object]:
    return {"image": f"{at}.jpg", "image_sha256": f"{at:064x}", "width_px": 8, "height_px": 8}


def ratings(noise: float, sign: int = 1, *, bad: int = 0, labelled: bool = True) -> pa.Table:
    """Four ratings of each image around a linear function of its score; the first `bad` images have none."""
    rng, rows = np.random.default_rng(1), []
    for at, score in enumerate(SCORES):
        drawn = np.clip(3 + sign * (score - 5) * 0.3 + rng.normal(0, noise, 5), 1, 5)
        texts = ["bad" if at < bad else f"\\boxed{{{rating:.2f}}}" for rating in drawn]
        record = image(at) | ({"score": score, "group": f"g{at}"} if labelled else {})
        rows.append(rated(record, texts[1:], texts[0]))
    return pa.Table.from_pylist(rows, schema=RATINGS.schema)


def value(metrics: pa.Table, name: str) -> dict[str, float]:
    (row,) = [row for row in metrics.to_pylist() if row["metric"] == name]
    return row


def test_correlations_are_scipys_and_images_without_a_rating_are_counted() -> None:
    table = ratings(0.6, bad=3)
    metrics = rating_metrics(table, CONFIG, "test", seed=0)
    for reading in ("mean", "stated"):
        known = table.filter(table[reading].is_valid())
        true, found = known["score"].to_numpy(), known[reading].to_numpy()
        for name, oracle in (("srcc", spearmanr), ("plcc", pearsonr), ("krcc", kendalltau)):
            row = value(metrics, f"{name}_{reading}")
            assert row["value"] == pytest.approx(float(oracle(true, found)[0])) and row["rows"] == COUNT - 3
            assert row["low"] < row["value"] < row["high"]
        assert value(metrics, f"spread_{reading}")["value"] == pytest.approx(found.std())
    assert value(metrics, "parse_rate")["value"] == pytest.approx(1 - 3 / COUNT)
    assert value(metrics, "parse_rate_stated")["value"] == pytest.approx(1 - 3 / COUNT)


def test_without_labels_there_are_no_correlations() -> None:
    names = set(rating_metrics(ratings(0.1, labelled=False), CONFIG, "val", seed=0)["metric"].to_pylist())
    assert "parse_rate" in names and not any(name.startswith(("srcc", "plcc", "krcc")) for name in names)


def votes(share_right: float = 1.0, count: int = 40) -> pa.Table:
    rng, rows = np.random.default_rng(2), []
    for at in range(count):
        one, other = (int(place) for place in rng.choice(COUNT, 2, replace=False))
        right = (SCORES[one] > SCORES[other]) == (rng.random() < share_right)
        answers = [Vote(swapped, f"\\boxed{{{int(right == swapped)}}}") for swapped in (False, True, False)]
        pair = {"pair": f"held-out/{at:06d}", "images": [image(one), image(other)], "kind": "images"}
        rows.append(counted_row(pair, answers, "majority"))
    return pa.Table.from_pylist(rows, schema=VOTES.schema)


def test_agreement_is_the_share_of_pairs_in_the_votes_order() -> None:
    exact = ratings(0.0)
    for share in (1.0, 0.0):
        found = value(agreement_metrics(exact, votes(share), CONFIG, 0), "vote_agreement_mean")
        assert found["value"] == share and found["rows"] == 40
    same = exact.set_column(exact.column_names.index("mean"), "mean", pa.array([3.0] * COUNT))
    assert value(agreement_metrics(same, votes(), CONFIG, 0), "vote_agreement_mean")["value"] == 0.5


def test_figures_of_votes() -> None:
    pair = {"pair": "p", "images": [], "kind": "images"}
    answers = [
        [Vote(False, "\\boxed{0}"), Vote(True, "\\boxed{0}")],
        [Vote(False, "\\boxed{0}")] * 3 + [Vote(True, "?")],
    ]
    rows = [counted_row(pair, given, "majority") for given in [*answers, [Vote(False, "?")]]]
    found = vote_figures(pa.Table.from_pylist(rows, schema=VOTES.schema))
    assert found["parse_rate"] == pytest.approx(5 / 7) and found["said_first"] == 1.0
    assert found["agreement"] == pytest.approx(0.75) and found["ties"] == 0.5
    assert found["unlabelled"] == pytest.approx(1 / 3)


def test_only_pairs_with_a_label_are_trained_on() -> None:
    table = votes(count=5)
    none = table.set_column(table.column_names.index("preference"), "preference", pa.array([None] * 5, pa.float64()))
    with pytest.raises(DataError, match="none of 5 pairs"):
        units_of(none, "p", None)
    some = pa.concat_tables([table.slice(0, 3), none.slice(3)])
    assert units_of(some, "p", None)["pair"].to_pylist() == table["pair"].to_pylist()[:3]
    own = ratings(0.0, bad=COUNT // 2)
    mean = dict(zip(own["image"].to_pylist(), own["mean"].to_pylist(), strict=True))
    units = units_of(table, "p", own).to_pylist()
    assert all(unit["targets"] == [mean[one["image"]] for one in unit["images"]] for unit in units)
    assert len(images_of_pairs(table)) == len({one["image"] for unit in units for one in unit["images"]})


def test_each_pair_is_in_one_unit_around_an_image() -> None:
    drawn = {frozenset(one["image"] for one in row["images"]): row for row in votes(count=200).to_pylist()}
    table = pa.Table.from_pylist(list(drawn.values()), schema=VOTES.schema)
    pairs = {
        frozenset(one["image"] for one in row["images"]): {row["images"][0]["image"]: row["preference"]}
        | {row["images"][1]["image"]: 1 - row["preference"]}
        for row in table.to_pylist()
    }
    for most in (2, 5):
        found, sizes = [], []
        for unit in units_of(table, "p", None, most).to_pylist():
            center, *partners = (one["image"] for one in unit["images"])
            sizes.append(len(partners))
            assert len({center, *partners}) == len(partners) + 1 <= most + 1
            for partner, label in zip(partners, unit["preferences"], strict=True):
                found.append(frozenset((center, partner)))
                assert pairs[found[-1]][center] == label
        assert len(found) == len(pairs) and set(found) == set(pairs)
        assert np.mean(sizes) > 0.65 * most
    assert "preferences" not in units_of(table, "p", None, 1).column_names


def test_a_round_stops_only_when_srcc_is_lowered() -> None:
    good, bad = ratings(0.1), ratings(1.5)
    assert srcc_change(good, bad, CONFIG, 0) == "lowered" and srcc_change(bad, good, CONFIG, 0) == "raised"
    assert srcc_change(good, good, CONFIG, 0) == "no difference shown"


def with_metrics(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    return table, rating_metrics(table, CONFIG, "test", seed=0)


def results(controls: pa.Table | None = None, *, labelled: bool = True) -> Results:
    fields = {"name": "r", "data": {"table": "t"}, "model": {"id": "bundled"}, "evaluation": {"bootstrap_samples": 200}}
    rounds = [
        RoundResults(
            round_number=number,
            labelled={"test": with_metrics(ratings(noise))} if labelled else {},
            held_out=agreement_metrics(ratings(noise), votes(), CONFIG, 0),
            votes=votes() if number else None,
        )
        for number, noise in ((0, 1.5), (1, 0.3))
    ]
    recipe = EvoQualityRecipe.model_validate(fields)
    return Results(recipe, "a model", pa.table({"image": ["a"]}), votes(), rounds, controls)


def test_the_report_says_what_changed_and_escapes_what_a_model_said() -> None:
    page = report_page(results(), lambda *_: Image.new("RGB", (8, 8)))
    assert "raised SRCC of the mean rating on test" in page.lead and "No control was run" in page.lead
    html = render_page(page)
    assert html.count("data:image/jpeg") == 12 and html.count("<svg") == 2
    text = results_text(results())
    assert "On test" in text and "Held-out votes" in text and "round 1" in text
    unlabelled = report_page(results(labelled=False), lambda *_: Image.new("RGB", (8, 8)))
    assert "Without any label" in unlabelled.lead and "Votes are no truth" in unlabelled.lead


def of_controls(shuffled: float) -> pa.Table:
    tables = {
        ("own", 0): ratings(1.5), ("own", 1): ratings(0.3), ("shuffled", 1): ratings(shuffled),
        ("flipped", 1): ratings(0.3, -1),
    }  # fmt: skip
    models = {
        name: (table, {row["metric"]: row["value"] for row in with_metrics(table)[1].to_pylist()})
        for name, table in tables.items()
    }
    return control_figures(models, CONFIG, 0)


def test_a_gain_counts_only_beyond_shuffled_votes() -> None:
    apart = of_controls(1.5)
    assert "The gain of the mean rating counts" in gain_sentence(apart) and "Flipped votes" in gain_sentence(apart)
    alike = of_controls(0.3)
    assert "does not count" in gain_sentence(alike) and "rating counts" not in gain_sentence(alike)
    headings, rows = control_grid(apart)
    assert [row[0] for row in rows] == ["base", "own, round 1", "shuffled, round 1", "flipped, round 1"]
    assert {len(row) for row in rows} == {len(headings)}
    report = report_page(results(apart), lambda *_: Image.new("RGB", (8, 8)))
    assert "counts" in report.lead and report.sections[1].heading == "Beside its controls"


def test_a_gain_counts_when_shuffled_votes_leave_one_rating_for_all_images() -> None:
    models = {("own", 0): ratings(1.5), ("own", 1): ratings(0.3), ("shuffled", 1): ratings(0.3)}
    for reading in ("mean", "stated"):
        at = models["shuffled", 1].column_names.index(reading)
        models["shuffled", 1] = models["shuffled", 1].set_column(at, reading, pa.array([3.0] * COUNT))
    measured = {
        name: (table, {row["metric"]: row["value"] for row in with_metrics(table)[1].to_pylist()})
        for name, table in models.items()
    }
    said = gain_sentence(control_figures(measured, CONFIG, 0))
    assert said.count("rating counts") == 2 and said.count("leave one rating for all images") == 2


def test_a_control_on_other_images_is_refused() -> None:
    table = ratings(0.3)
    figures = {"srcc_mean": 0.0, "srcc_stated": 0.0, "spread_mean": 0.0, "spread_stated": 0.0}
    with pytest.raises(DataError, match="same images"):
        control_figures({("own", 0): (table, figures), ("shuffled", 1): (table.slice(1), figures)}, CONFIG, 0)
