import ast
import re
from collections.abc import Iterator

import yaml
from pydantic import BaseModel
from report_run import invented_run

from pipeline_lib.config.base import SplitLists
from pipeline_lib.config.load import parse_recipe
from pipeline_lib.methods.self_improve.recipe import SelfImproveRecipe
from pipeline_lib.methods.self_improve.report.contents import RunResults
from pipeline_lib.methods.self_improve.report.model_card import model_card
from pipeline_lib.methods.self_improve.report.paper_settings import departures, paper_settings, recipe_yaml


def with_model(run: RunResults, model_id: str, revision: str | None = None) -> RunResults:
    model = run.recipe.model.model_copy(update={"id": model_id, "revision": revision})
    return run._replace(recipe=run.recipe.model_copy(update={"model": model}), model_name=model_id)


def test_front_matter_and_figures(run: RunResults) -> None:
    card = model_card(run)
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "acme/tiny-vlm" and front["library_name"] == "peft"
    value = run.models[-1].metric("srcc_monotone").value
    row = next(line for line in card.splitlines() if line.startswith("| SRCC, monotone"))
    assert f"{value:.3f}".lstrip("0") in row.split("|")[-2]


def test_the_code_to_load_it_is_python(run: RunResults) -> None:
    for results in (run, with_model(run, "bundled"), with_model(run, "/data/private/vlm")):
        card = model_card(results)
        code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
        assert code is not None
        ast.parse(code[1])
        assert "/data/private" not in card and "/somewhere" not in card
    assert "BUNDLED" in model_card(with_model(run, "bundled"))


def test_a_prompt_is_neither_code_nor_html(run: RunResults) -> None:
    text = 'Rate it. #Score #Explain """ + __import__("os").system("x") + """ \\ ``` <b>'
    criterion = run.prompt.criterion.model_copy(update={"score": "score <script>alert(1)</script> [x](http://y)"})
    prompt = run.prompt.model_copy(update={"text": text, "criterion": criterion})
    card = model_card(run._replace(prompt=prompt))
    code = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert code is not None
    (value,) = (node.value for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Assign) and
                [getattr(target, "id", "") for target in node.targets] == ["PROMPT"])  # fmt: skip
    assert ast.literal_eval(value) == text
    assert "<script>" not in card and "](http://y)" not in card.replace("\\]", "")


def test_sft_term_is_named_only_when_on(run: RunResults) -> None:
    assert "**Not in the paper:** a likelihood (SFT) term" in model_card(run)
    assert "(SFT)" not in model_card(invented_run(steps=3, sft_weight=0.0))


def test_departures_are_found_and_the_papers_own_settings_are_none() -> None:
    fields = {"name": "a", "data": {"table": "t.csv"}, "model": {"id": "llava-hf/llava-v1.6-vicuna-7b-hf"}}
    paper = SelfImproveRecipe.model_validate(fields)
    assert [setting.field for setting in departures(paper)] == ["judge.openai.model"]
    other = SelfImproveRecipe.model_validate(
        fields | {"training": {"beta": 0.5, "sft_weight": 0.2}, "merge": {"density": 0.7}}
    )
    assert {"training.beta", "training.sft_weight", "merge.density"} <= {setting.field for setting in departures(other)}
    judged = SelfImproveRecipe.model_validate(fields | {"judge": {"openai": {"model": "gpt-4o-2024-08-06"}}})
    assert departures(judged) == []
    start = next(setting for setting in paper_settings(paper) if setting.field == "training.start_from")
    assert start.standing == "not given"


NO_SETTING_OF_THE_PAPERS = {
    *("judge.vlm.from_run", "judge.vlm.prompt", "judge.vlm.rows", "judge.vlm.max_new_tokens"),
    *(
        "method",
        "name",
        "seed",
        "model.from_run",
        "model.revision",
        "training.micro_batch_size",
    ),  # say what, how fast, not how it is trained
    *(
        "evaluation.bootstrap_samples",
        "evaluation.confidence",
        "evaluation.min_parse_rate",
        "evaluation.also",
    ),  # beside the paper's figures
    *("judge.anchors", "judge.round_trip.holdout_fraction", "faithfulness.rows", "faithfulness.faults"),
}
OTHER_FLOWS = ("ablation.", "grid_search.", "merge_ablation.")
DATA = ("data.", "runtime.")


def leaves(section: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_field_is_held_against_the_paper_or_left_out_on_purpose(run: RunResults) -> None:
    fields = {name for name in leaves(run.recipe) if not name.startswith((*OTHER_FLOWS, *DATA))}
    shown = [setting.field for setting in paper_settings(run.recipe)]
    assert len(shown) == len(set(shown))
    assert set(shown) | NO_SETTING_OF_THE_PAPERS == fields and not set(shown) & NO_SETTING_OF_THE_PAPERS


def test_settings_that_are_null_are_shown_in_words(run: RunResults) -> None:
    openai = run.recipe.judge.openai.model_copy(update={"temperature": None})
    judge = run.recipe.judge.model_copy(update={"openai": openai})
    recipe = run.recipe.model_copy(update={"judge": judge})
    shown = {setting.field: setting.here for setting in paper_settings(recipe)}
    assert shown["judge.rows"] == "all" and shown["judge.openai.model"].startswith("none")
    assert "None" not in shown.values()


def test_the_prompt_need_not_be_there_when_the_report_is_made(run: RunResults) -> None:
    """A run may be rendered again on another machine: the prompt's words come with the results, not from its file."""
    lists = SplitLists(test="/somewhere/private/test.txt")
    data = run.recipe.data.model_copy(update={"split_lists": lists})
    gone = run._replace(recipe=run.recipe.model_copy(update={"prompt": "/somewhere/private/defects.txt", "data": data}))
    card = model_card(gone)
    assert repr(run.prompt.text) in card and "/somewhere" not in card and "defects.txt" in card


def test_recipe_yaml_loads_as_a_recipe_and_hides_paths(run: RunResults) -> None:
    text = recipe_yaml(run.recipe)
    assert parse_recipe(yaml.safe_load(text)).training == run.recipe.training
    assert "/somewhere" not in text and "runtime" not in text
