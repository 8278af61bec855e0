import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from report_run import HOSTILE, difference_replaced, invented_run, metric_replaced
from scipy import stats

from pipeline_lib.methods.self_improve.report.ceilings import ceilings
from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.gallery import choose_rows
from pipeline_lib.methods.self_improve.report.lineage import final, on_split
from pipeline_lib.methods.self_improve.report.page import render_report
from pipeline_lib.methods.self_improve.report.plain_verdict import plain_verdict
from pipeline_lib.methods.self_improve.report.rated_images import rated_images
from pipeline_lib.methods.self_improve.report.result_tables import change_columns, change_rows
from pipeline_lib.methods.self_improve.report.score_figures import calibration, scatter_figures, shown_range
from pipeline_lib.methods.self_improve.report.training_figures import running_mean

OpenImage = Callable[[str, str], Image.Image]


class Page(HTMLParser):
    """Tags with attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ends: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.ends.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words).replace("−", "-"))


@pytest.fixture(scope="module")
def html(run: RunResults, open_image: OpenImage) -> str:
    return render_report(run, open_image)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", html)


def test_what_models_and_users_wrote_is_escaped(html: str, page: Page) -> None:
    assert "<script" not in html and "<gone>" not in html
    assert HOSTILE in page.text and "photos/<gone>.jpg" in page.text


def test_same_results_same_bytes(html: str, run: RunResults, open_image: OpenImage) -> None:
    assert render_report(run, open_image) == html
    assert "/somewhere/private" not in html


def test_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a[name] for _, a in page.tags for name in ("href", "xlink:href") if str(a.get(name)).startswith("#")}
    assert {str(target)[1:] for target in targets} <= set(ids)


def test_table_holds_the_metrics(html: str, run: RunResults) -> None:
    body = html.partition('<table class="results"')[2].partition("</table>")[0].replace("−", "-")
    rows = [row for row in body.split("<tr")[3:] if "collapse-note" not in row]
    columns = ["srcc_stated", "mae_stated", "within_one_stated", "srcc_monotone", "plcc_monotone", "rmse_monotone"]
    columns += ["plcc_fitted", "srcc_fitted", "rmse_fitted", "cons", "cons_corrected", "parse_rate"]
    assert len(rows) == len(run.models)
    for row, model in zip(rows, run.models, strict=True):
        shown = [float(value) for value in re.findall(r'class="value">([-.\d]+)<', row)]
        assert model.name in row
        assert shown == pytest.approx([model.metric(column).value for column in columns], abs=5.1e-3)


def test_a_collapsed_model_is_flagged(page: Page, run: RunResults, open_image: OpenImage) -> None:
    parsed = sum(row["parsed"] for row in on_split(run.models[3].predictions, "test").to_pylist())
    assert f"ite-2 consistency collapsed: {60 - parsed} of 60 test texts did not parse." in page.text
    fine = run._replace(models=run.models[:2])
    assert "none of this run is" in Page(render_report(fine, open_image)).text


def test_unparsed_answers_show_their_raw_text(page: Page) -> None:
    assert "did not parse" in page.text and "#Score #Score" in page.text


def test_the_judge_is_named_with_its_error(page: Page, run: RunResults) -> None:
    error = run.judge_holdout["recovered_score"].to_numpy() - run.judge_holdout["injected_score"].to_numpy()
    assert "local round-trip judge" in page.text
    assert f"mean absolute error {np.abs(error).mean():.2f}" in page.text
    assert "Do not compare these figures" in page.text


def test_sft_term_is_said_only_when_it_is_on(page: Page, open_image: OpenImage) -> None:
    assert "likelihood (SFT) term on the chosen text with weight 0.1" in page.text
    other = invented_run(steps=3, sft_weight=0.0)
    without = Page(render_report(other._replace(models=other.models[:2]), open_image))
    assert "likelihood (SFT) term" not in without.text


def test_the_page_begins_with_the_verdict_and_the_images_and_folds_the_rest(
    run: RunResults, html: str, page: Page
) -> None:
    places = [html.index(mark) for mark in ('id="verdict"', 'id="rated"', 'id="specialists"', 'id="results"')]
    assert places == sorted(places) and html.index("</details>\n\n<footer>") > html.index('id="settings"')
    assert html.count("<details") == html.count("</details>")
    verdict = plain_verdict(run)
    for point in verdict.points:
        assert all(sentence in page.text.replace("\u00a0", " ") for sentence in (point.question, point.answer))
    assert html.count("<!-- provenance -->") == 1 and "Seed 0." in page.text


def test_best_and_worst_rated_images_are_those_of_the_predictions(
    run: RunResults, html: str, open_image: OpenImage
) -> None:
    groups = rated_images(run, open_image)
    rows = {row["image"]: row for row in on_split(run.models[-1].predictions, "test").to_pylist()}
    ranked = sorted(rows, key=lambda name: -rows[name]["predicted_monotone"])
    assert [item.image for item in groups[0].images] == ranked[:3]
    assert [item.image for item in groups[1].images] == ranked[::-1][:3]
    shown = [item for group in groups for item in group.images]
    assert len({item.image for item in shown}) == 8
    error = {name: abs(row["predicted_monotone"] - row["score"]) for name, row in rows.items()}
    assert min(error[item.image] for item in groups[2].images) >= max(
        error[name] for name in rows if name not in {item.image for item in shown}
    )
    for item in shown:
        row = rows[item.image]
        assert (item.predicted, item.low, item.high) == tuple(
            row[name] for name in ("predicted_monotone", "interval_low", "interval_high")
        )
        assert f'<dd class="of-model">{item.predicted:.2f}</dd>' in html
        assert f'<dd class="of-people">{item.score:.2f}</dd>' in html
        assert item.stated is None or f"Its answer states bin <b>{item.stated}</b> of 0 to 9" in html
        assert all(0 <= mark <= 1 for mark in item.marks.values())


def test_large_images_are_in_their_own_size_up_to_a_limit(run: RunResults) -> None:
    for size, shown, said in (
        ((96, 60), (192, 120), "96 px, shown twice as large"),
        ((300, 200), (300, 200), ""),
        ((4000, 3000), (1280, 960), "reduced from 4000 px"),
    ):
        group = rated_images(run, lambda *_, size=size: Image.new("RGB", size))[0]
        item = group.images[0]
        assert (item.width_px, item.height_px, item.shown_as) == (*shown, said)
        assert group.side_by_side == (size[0] < 400)


def test_no_number_of_the_gallery_is_without_its_scale(html: str) -> None:
    assert not re.search(r"states <b>", html)
    assert re.search(r"states bin <b>\d</b> · predicts <b>[\d.]+</b> on the own scale", html)


def test_the_verdict_is_on_the_page(run: RunResults, page: Page, open_image: OpenImage) -> None:
    assert "Self-training raised SRCC on test, of the stated score and of the prediction" in page.text
    equal = run
    for metric in ("srcc_stated", "srcc_monotone"):
        equal = difference_replaced(equal, "zero-shot", "ite-1 score", metric, (0.1, -0.1, 0.3))
    worse = Page(render_report(equal._replace(models=equal.models[:2]), open_image))
    assert "Self-training showed no difference of SRCC on test." in worse.text


def test_words_of_text_and_table_are_those_of_the_differences(run: RunResults, page: Page) -> None:
    lines = change_rows(run)
    named = [(line["earlier"], line["later"], cell["word"]) for line in lines for cell in line["cells"]]
    shown = [row for row in run.differences.to_pylist() if row["metric"] in [c.metric for _, c in change_columns(run)]]
    words = sorted(row["change"].removesuffix(" shown") for row in shown)
    assert sorted(word for _, _, word in named) == words
    assert all(line["later"] in page.text for line in lines)


def test_gallery_is_spread_and_holds_the_extremes(run: RunResults) -> None:
    chosen = dict(choose_rows(run))
    rows = sorted(on_split(final(run).predictions, "test").to_pylist(), key=lambda row: (row["score"], row["image"]))
    assert 10 <= len(chosen) <= 12
    for tenth in range(10):
        part = {row["image"] for row in rows[6 * tenth : 6 * tenth + 6]}
        assert any(f"tenth {tenth + 1} of 10" in reason for image in part for reason in chosen.get(image, []))
    worst = max(rows, key=lambda row: abs(row["predicted_monotone"] - row["score"]))
    assert "worst predicted by ite-3 merged" in chosen[worst["image"]]


def test_a_run_of_little_still_has_a_report(run: RunResults, open_image: OpenImage) -> None:
    """No training, fewer test images than tenths, verdicts on few rows, nothing unreadable, no defined Cons."""
    nan = float("nan")
    small = metric_replaced(run, "zero-shot", "cons_corrected", (nan, nan, nan))
    base = small.models[0]
    test = on_split(base.predictions, "test").slice(0, 4)
    few = base._replace(predictions=test, judged=base.judged._replace(verdicts=base.judged.verdicts.slice(0, 0)))
    empty = run.unreadable_images.slice(0, 0)
    page = Page(render_report(small._replace(models=[few], unreadable_images=empty), open_image))
    assert "Nothing was trained in this run." in page.text
    assert re.search("Not drawn[^.]*: zero-shot", page.text)
    assert "not judged" in page.text and "could be read" in page.text


def test_calibration_averages_equal_groups() -> None:
    predicted, true = calibration(np.arange(20.0)[::-1], np.arange(20.0)[::-1] ** 2)
    assert predicted.tolist() == [0.5 + 2 * k for k in range(10)]
    assert true[0] == 0.5 and len(true) == 10


def test_one_far_prediction_does_not_squash_the_scatter(run: RunResults) -> None:
    base = run.models[0]
    rows = base.predictions.to_pylist()
    next(row for row in rows if row["split"] == "test")["predicted_monotone"] = -500.0
    far = base._replace(predictions=pa.Table.from_pylist(rows, schema=base.predictions.schema))
    figure = scatter_figures(run._replace(models=[far]))[0]
    assert "1 outside" in figure and "-500" not in figure.replace("−", "-")
    assert shown_range(np.array([2.0, 6.0])) == (1.0, 7.0)


def test_ceilings_are_those_of_bins_and_raters(run: RunResults, page: Page) -> None:
    test = on_split(run.images, "test")
    (bins,) = ceilings(run)
    expected = stats.spearmanr(test["score"].to_numpy(), test["bin"].to_numpy()).statistic
    assert bins.srcc == pytest.approx(expected) and f"{expected:.3f}".lstrip("0") in page.text
    koniq = run.recipe.model_copy(update={"data": run.recipe.data.model_copy(update={"dataset": "koniq10k"})})
    assert [ceiling.name for ceiling in ceilings(run._replace(recipe=koniq))] == ["raters", "ten bins"]


def test_running_mean_keeps_a_constant_and_the_length() -> None:
    assert running_mean(np.full(50, 3.0), 7).tolist() == pytest.approx([3.0] * 50)


def test_judge_rows_may_be_fewer_than_predictions(run: RunResults, open_image: OpenImage) -> None:
    models = [
        model._replace(judged=model.judged._replace(verdicts=model.judged.verdicts.slice(0, 70)))
        for model in run.models[:2]
    ]
    assert "not judged" in Page(render_report(run._replace(models=models), open_image)).text
