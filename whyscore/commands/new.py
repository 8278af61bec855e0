"""The command that writes a recipe for a table or folder which nobody has described yet."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from whyscore.commands.terminal import at_home, errors_for_people, local_path, quiet_libraries

if TYPE_CHECKING:
    from pipeline_lib.checks.columns import Candidates, Found

NONE = "none"
"""What a person gives for a column that there is not."""


def new(
    table: Annotated[
        str, typer.Argument(callback=at_home, help="A table with images and scores, or a folder of images; or s3://")
    ],
    out: Annotated[
        Path | None, typer.Option(callback=local_path, help="The recipe to write; else one beside the table")
    ] = None,
    images: Annotated[str, typer.Option(callback=at_home, help="Folder that the names of images are relative to")] = "",
    image_column: str | None = None,
    score_column: Annotated[str | None, typer.Option(help="none: learn from the images alone")] = None,
    split_column: Annotated[str | None, typer.Option(help="none: draw the splits")] = None,
    group_column: Annotated[str | None, typer.Option(help="none: each image is its own group")] = None,
    method: Annotated[str | None, typer.Option(help="self_improve, evo_quality or stic")] = None,
    questions: Annotated[
        str | None, typer.Option(callback=at_home, help="For stic: a table of questions with answers")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run")] = None,
    model: Annotated[
        str | None, typer.Option(callback=at_home, help="bundled, a hub id, or a local or s3:// folder")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id, 40 hex digits")] = None,
    criterion: Annotated[
        str | None, typer.Option(callback=at_home, help="A shipped prompt by its name, or your own .txt")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take every suggestion")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the recipe if it exists")] = False,
) -> None:
    """Look at a table or a folder of images, ask what it does not say, and write a commented recipe for it."""
    with errors_for_people():
        quiet_libraries()
        from pipeline_lib.checks.columns import look_at_table
        from pipeline_lib.checks.new_recipe import Answers, suggested_place, write_recipe

        place = out or suggested_place(table)
        _refuse_to_replace(place, replace)
        ask = _Asking(yes)
        found = look_at_table(table, images, image_column)
        _show(found)
        taken_image = ask.column("image", "--image-column", found, found.image, image_column, needed=True)
        if taken_image and found.image.choice is None:
            found = look_at_table(table, images, taken_image)
        score = ask.column("score", "--score-column", found, found.score, score_column) if _may_score(method) else None
        wanted = ask.method(method, scored=score is not None, in_words=found.scores_in_words is not None)
        if wanted == "self_improve" and score is None and not ask.open:
            _refuse_without_scores(table)
        split = ask.column("split", "--split-column", found, found.split, split_column)
        group = ask.group(found, group_column, taken={taken_image, score, split})
        asked = ask.rest(table, wanted, name=name, model=model, revision=revision, criterion=criterion)
        if wanted == "stic":
            questions = ask.questions(questions)
        ask.refuse_open_questions()
        assert taken_image is not None
        answers = Answers(
            wanted, asked.name, taken_image, score if wanted == "self_improve" else None, split, group,
            asked.model, asked.revision, asked.criterion, questions,
        )  # fmt: skip
        _, problems = write_recipe(found, answers, place, replace=replace)
        _say_what_is_next(place, problems, wanted, bundled=asked.model == "bundled")


class _Rest(NamedTuple):
    name: str
    model: str
    revision: str | None
    criterion: str | None


class _Asking:
    """Questions to a person at a terminal. Without one they are collected, and then refused all at once."""

    def __init__(self, yes: bool):
        self.yes, self.terminal = yes, sys.stdin.isatty()
        self.open: list[str] = []

    def text(self, what: str, option: str, suggestion: str | None, check: Callable[[str], str] | None = None) -> str:
        """An answer in words; `check` returns what is wrong with it, or nothing."""
        if self.yes and suggestion is not None:
            return suggestion
        if self.yes or not self.terminal:
            hint = f" (--yes takes {suggestion})" if suggestion else ""
            self.open.append(f"{option}: {what}{hint}")
            return suggestion or ""
        while True:
            answer: str = typer.prompt(what, default=suggestion)
            wrong = check(answer.strip()) if check else ""
            if not wrong:
                return answer.strip()
            typer.echo(wrong)

    def column(
        self,
        what: str,
        option: str,
        found: "Found",
        candidates: "Candidates",
        given: str | None,
        *,
        needed: bool = False,
    ) -> str | None:
        """The column of a thing: the one that is given, the only one there can be, or the one that a person names."""
        if given is not None:
            return self._given(what, option, given, found)
        if candidates.choice is not None or not candidates.columns:
            return candidates.choice
        names = [column.name for column in candidates.columns]
        also = "" if needed else f", or {NONE}"
        answer = self.text(
            f"Which column is the {what}: {', '.join(names)}{also}?", option, None, _one_of([*found.columns, NONE])
        )
        return None if answer in ("", NONE) else answer

    def _given(self, what: str, option: str, given: str, found: "Found") -> str | None:
        from pipeline_lib.errors import RecipeError

        if given == NONE and NONE not in found.columns:
            return None
        if given not in found.columns:
            raise RecipeError(f"{option} {given}: {found.table} has the columns {', '.join(found.columns)}")
        refused = {
            "score": found.score if found.score.columns else None,
            "split": found.split,
        }.get(what)
        if refused is not None and given not in [column.name for column in refused.columns]:
            could = ", ".join(column.name for column in refused.columns) or NONE
            raise RecipeError(f"{option} {given}: this column holds no usable {what}; possible: {could}")
        return given

    def group(self, found: "Found", given: str | None, taken: set[str | None]) -> str | None:
        """The column whose images belong together; a person may know one that the names do not tell."""
        possible = [name for name in found.further_groups if name not in taken]
        if given is not None or found.group.columns or not possible:
            return self.column("group", "--group-column", found, found.group, given)
        answer = self.text(
            f"Do images with the same {' or '.join(possible)} belong together, so that they must stay in one split?"
            f" Name the column, or {NONE}",
            "--group-column",
            NONE,
            _one_of([*possible, NONE]),
        )
        return None if answer == NONE else answer

    def method(self, given: str | None, *, scored: bool, in_words: bool) -> str:
        """The method: with scores self_improve, else one of those that learn from images alone.

        That is not suggested where scores are `in_words`: they would be dropped.
        """
        from pipeline_lib.checks.new_recipe import methods_with_template
        from pipeline_lib.errors import RecipeError

        known = methods_with_template()
        if given is not None and given not in known:
            raise RecipeError(f"--method {given}: give one of {', '.join(known)}")
        if given or scored or any(question.startswith("--score-column") for question in self.open):
            return given or "self_improve"
        return self.text(
            "There are no scores. evo_quality learns to rate quality from images alone; stic learns to describe, and"
            " needs questions with answers. Which method?",
            "--method",
            None if in_words else "evo_quality",
            _one_of([name for name in known if name != "self_improve"]),
        )

    def questions(self, given: str | None) -> str:
        """The table of questions that stic needs."""
        return given or self.text("The table of questions with answers (docs/methods/stic.md)", "--questions", None)

    def rest(
        self,
        table: str,
        method: str,
        *,
        name: str | None,
        model: str | None,
        revision: str | None,
        criterion: str | None,
    ) -> _Rest:
        """What no table says: the name of the run, the model and the criterion."""
        from pipeline_lib.checks.new_recipe import suggested_name

        name = name or self.text("Name of the run (a folder in the store)", "--name", suggested_name(table), _run_name)
        model = model or self.text(
            "Model: `bundled` for a first try in minutes, else a hub id or a folder of weights", "--model", "bundled"
        )
        if revision is None and _is_hub_id(model):
            revision = self.text(f"Commit of {model} (40 hex digits, never a branch)", "--revision", None, _commit)
        if method == "self_improve":
            from pipeline_lib.methods.self_improve.prompt import FOLDER, load_prompt

            shipped = sorted(path.stem for path in FOLDER.glob("*.txt"))
            suggestion = "aesthetics_short" if model == "bundled" else "aesthetics"
            criterion = criterion or self.text(
                f"What is scored: {', '.join(shipped)}, or the path of your own .txt", "--criterion", suggestion
            )
            load_prompt(criterion)
        return _Rest(name, model, revision, criterion)

    def refuse_open_questions(self) -> None:
        """Raise `RecipeError` that lists every question which nobody could be asked."""
        from pipeline_lib.errors import RecipeError

        if self.open:
            way = "not decided by --yes" if self.yes else "standard input is no terminal"
            raise RecipeError("\n  ".join([f"{len(self.open)} question(s) are open and {way}; give", *self.open]))


def _may_score(method: str | None) -> bool:
    return method in (None, "self_improve")


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    return lambda answer: "" if answer in names else f"Give one of {', '.join(names)}."


def _run_name(answer: str) -> str:
    import re

    fits = re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", answer)
    return "" if fits else "Use small letters, digits, dots, hyphens and underscores, a letter or digit first."


def _commit(answer: str) -> str:
    import re

    return "" if re.fullmatch(r"[0-9a-f]{40}", answer) else "A commit has 40 hex digits; the model's page lists them."


def _is_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~", "s3:")) and not Path(model).is_dir()


def _refuse_to_replace(place: Path, replace: bool) -> None:
    from pipeline_lib.errors import RecipeError

    if place.exists() and not replace:
        raise RecipeError(f"{place} exists; give another path with --out, or --replace to replace it")


def _refuse_without_scores(table: str) -> None:
    from pipeline_lib.errors import DataError

    raise DataError(
        f"{table} has no column of numbers that could be scores, and self_improve learns from scores; add one (higher"
        " is better), name it with --score-column, or leave out --method to learn from the images alone"
    )


def _show(found: "Found") -> None:
    """What was found, a line for each column that means something."""
    if found.kind != "images":
        typer.echo(f"{found.table}: {found.rows:,} rows, columns {', '.join(found.columns)}")
    for what, candidates in (
        ("image", found.image),
        ("score", found.score),
        ("split", found.split),
        ("group", found.group),
    ):
        if found.kind == "images":
            break
        if candidates.choice is None:
            for column in candidates.columns:
                typer.echo(f"  {what:<6} could be  {column.name}: {column.why}")
            continue
        for column in candidates.columns:
            if column.name == candidates.choice:
                typer.echo(f"  {what:<6} is        {column.name}: {column.why}")
        if others := [column.name for column in candidates.columns if column.name != candidates.choice]:
            typer.echo(f"  {'':<6} not       {', '.join(others)} (--{what}-column says otherwise)")
    for note in found.notes:
        typer.echo(f"  note: {note}")


def _say_what_is_next(place: Path, problems: Sequence[str], method: str, *, bundled: bool) -> None:
    import shlex

    recipe = shlex.quote(str(place))
    from pipeline_lib.config.load import DEFAULT_METHOD

    typer.echo(f"\nWrote {place}, a recipe of {method}")
    for problem in problems:
        typer.echo(f"  to solve first: {problem}")
    typer.echo("Next:")
    if method == DEFAULT_METHOD:  # the two are for recipes with scores
        typer.echo(f"  whyscore check-data {recipe}   # opens every image, shows counts, splits and all problems")
        typer.echo(f"  whyscore doctor {recipe}       # checks model, memory and keys")
    typer.echo(f"  whyscore plan {recipe}         # lists the stages; computes nothing")
    typer.echo(f"  whyscore run {recipe}" + ("          # minutes with the bundled model" if bundled else ""))
