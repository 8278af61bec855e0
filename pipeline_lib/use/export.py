"""Export a model of self_improve, which scores images and says why."""

from pathlib import Path

from pipeline_lib.methods.self_improve.predictions import EVALUATED, scale_of
from pipeline_lib.methods.self_improve.prompt import Prompt
from pipeline_lib.methods.self_improve.score_tokens import resolve_score_tokens
from pipeline_lib.methods.self_improve.uncertainty import USED_LEVEL
from pipeline_lib.store import ArtifactStore
from pipeline_lib.use.export_facts import FORMAT, ExportFacts
from pipeline_lib.use.export_folder import ROOT, Export, check_exportable, model_facts, write_folder
from pipeline_lib.use.trained import Trained
from pipeline_lib.vlm.chat import render_chat
from pipeline_lib.vlm.load import load_processor


def export_model(
    store: ArtifactStore,
    trained: Trained,
    prompt: Prompt,
    max_new_tokens: int,
    folder: Path,
    *,
    score_column: str,
    seed: int,
    adapter_only: bool = False,
) -> None:
    """Write a model to a new folder; see `write_folder`."""
    export = export_of_trained(store, trained, prompt, max_new_tokens, score_column=score_column, seed=seed)
    write_folder(store, export, folder, adapter_only=adapter_only)


def export_of_trained(
    store: ArtifactStore, trained: Trained, prompt: Prompt, max_new_tokens: int, *, score_column: str, seed: int
) -> Export:
    """A model of a run with what its folder says about it."""
    model = trained.model
    check_exportable(model, trained.name, trained.why)
    reference_values, predictions = (store.read_table(trained.evaluated.address, name) for name in EVALUATED)
    scale = scale_of(reference_values, predictions, seed)
    processor = load_processor(model)
    tokens = resolve_score_tokens(processor.tokenizer, render_chat(processor, prompt.text))
    folds = [{"reference_values": fold.values.tolist(), "errors": fold.errors.tolist()} for fold in scale.calibrated]
    facts = model_facts(model, trained.name, prompt.text, max_new_tokens) | {
        "format": FORMAT,
        "score_is_of": prompt.criterion.score,
        "score_column": score_column,
        "score_context": tokens.context,
        "score_token_ids": list(tokens.ids),
        "reading": scale.used.reading,
        "reference_values": scale.used.values.tolist(),
        "interval": {"level": USED_LEVEL, "folds": folds} if folds else None,
    }
    facts = ExportFacts.model_validate(facts).model_dump(mode="json")
    values = ", ".join(f"{value:.4g}" for value in facts["reference_values"])
    return Export(
        name=trained.name,
        why=trained.why,
        model=model,
        facts=facts,
        code={"whyscore_model.py": ROOT / "pipeline_lib" / "use" / "exported.py"},
        title=f"Scores an image 0..9 ({prompt.criterion.score}) and says why.",
        example=("print(answer.score)", "print(answer.text)"),
        reading=f"""- **Answer**: greedy (no sampling), at most {max_new_tokens} tokens: `#Score: 7`, an empty line,
  `#Explain: ..`.
- **Score on the data set's own scale**: the probabilities of the ten digits (`score_token_ids`) behind `chat` and
  `score_context`, normalised over the ten, times the {facts["reading"]} reference values 0..9: {values}.""",
        warnings=trained.warnings,
    )
