"""Ways to break a mechanism, and for each the test that has to fail then.

`python -m tests.mutants.run` applies them one at a time to a copy of the tree. `old` must stand in its file exactly
once; a module that moves needs another path here and nothing else.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of the library, and the test that notices it."""

    name: str
    file: str
    old: str
    new: str
    killer: str


ROWS = "tests/unit/train/test_prefix_rows.py"
GENERATION = "tests/parity/test_generation.py"
SAME_ANSWERS = f"{GENERATION}::test_true_and_wrong_score_are_explained_as_on_the_plain_path"
LOGPS = "tests/parity/test_log_probabilities.py"
TRAINER = "tests/parity/test_trainer.py"
GRPO = "tests/parity/test_grpo.py"
KEYS = "tests/unit/test_keys.py"
STORE = "tests/unit/store/test_artifact_store.py"
SHARDS = "tests/unit/store/test_compute_in_shards.py"
GC = "tests/unit/store/test_gc.py"
CHECKPOINTS = "tests/unit/train/test_checkpoints.py"
DPO = "tests/unit/train/test_train_dpo.py"
MERGE = "tests/unit/methods/self_improve/test_merge_adapters.py"
JUDGE = "tests/unit/methods/self_improve/test_judge_model.py"
BINS = "tests/unit/methods/self_improve/test_bins.py"
ENGINE = "tests/unit/vlm/test_engine.py"
PAIRS = "tests/unit/methods/self_improve/test_score_pairs.py"
RESUME = "tests/flows/test_resume.py"
SPLITS = "tests/unit/data/test_image_list.py"

ATTENTION = (
    Mutant(
        "an-answer-sees-the-other-one",
        "pipeline_lib/train/prefix_rows.py",
        "(before & (own | (row_parts == PREFIX)[:, None, :]))[:, None]",
        "(before & (own | (row_parts >= PREFIX)[:, None, :]))[:, None]",
        f"{ROWS}::test_what_a_token_sees",
    ),
    Mutant(
        "heads-that-share-keys-take-each-others-lines",
        "pipeline_lib/vlm/generate/attention.py",
        "attn_mask=mask.repeat(1, 1, groups, 1)",
        "attn_mask=mask.repeat_interleave(groups, 2)",
        f"{LOGPS}::test_log_probabilities_of_every_token[qwen2.5-vl-torch.float32-1e-05]",
    ),
    Mutant(
        "a-decoded-answer-sees-the-other-one",
        "pipeline_lib/vlm/generate/prefix_decoding.py",
        "((known == PREFIX) | ((known == parts[..., None]) & before))",
        "((known >= PREFIX) & before)",
        f"{SAME_ANSWERS}[llava-1.5]",
    ),
    Mutant(
        "padding-before-a-prefix-is-seen",
        "pipeline_lib/vlm/generate/prefix_decoding.py",
        "self._parts[prefix.rows, self._length - length : self._length] = PREFIX",
        "self._parts[prefix.rows, : self._length] = PREFIX",
        f"{SAME_ANSWERS}[qwen2.5-vl]",
    ),
)

POSITIONS = (
    Mutant(
        "rejected-is-read-as-if-it-followed-chosen",
        "pipeline_lib/train/prefix_rows.py",
        "return positions - between",
        "return positions",
        f"{ROWS}::test_positions_of_rejected_follow_the_prefix",
    ),
    Mutant(
        "the-first-token-is-predicted-one-too-late",
        "pipeline_lib/train/prefix_rows.py",
        "at[:, 0] = lengths[0].repeat(answers) - 1",
        "at[:, 0] = lengths[0].repeat(answers)",
        f"{ROWS}::test_each_token_of_an_answer_is_predicted_by_the_one_before_it",
    ),
    Mutant(
        "decoded-tokens-stand-one-too-far",
        "pipeline_lib/vlm/generate/prefix_decoding.py",
        "lengths + len(steps) - 1",
        "lengths + len(steps)",
        f"{SAME_ANSWERS}[llava-1.5]",
    ),
    Mutant(
        "the-grid-of-an-image-is-forgotten",
        "pipeline_lib/vlm/generate/prefix_generation.py",
        "(positions + module.rope_deltas.view(-1, 1)).expand(-1, 3)",
        "positions.expand(-1, 3)",
        f"{SAME_ANSWERS}[qwen2.5-vl]",
    ),
)

PREFIX_DECODING = (
    Mutant(
        "images-of-a-batch-are-mixed-up",
        "pipeline_lib/vlm/generate/prefix_decoding.py",
        "for at in prefix.rows]).argsort()",
        "for at in prefix.rows])",
        f"{GENERATION}::test_true_and_wrong_score_are_explained_as_on_the_plain_path[qwen2.5-vl]",
    ),
)

STORED_REFERENCE = (
    Mutant(
        "the-reference-is-computed-in-the-step-again",
        "pipeline_lib/train/stored_reference.py",
        "self.precompute_ref_logps = True",
        "self.precompute_ref_logps = False",
        f"{TRAINER}::test_the_work_of_a_step_is_what_it_should_be",
    ),
    Mutant(
        "the-prompt-is-not-in-an-answers-digest",
        "pipeline_lib/train/reference.py",
        'hashlib.sha256(f"{prompt}\\n{answer}".encode())',
        "hashlib.sha256(answer.encode())",
        "tests/unit/train/test_reference.py::test_a_pair_without_a_reference_is_named[prompt-another]",
    ),
)

ARTIFACT_KEYS = (
    Mutant(
        "the-version-is-not-in-the-key",
        "pipeline_lib/store/key.py",
        '{"stage": stage, "version": version, "arguments": key_fields(arguments)}',
        '{"stage": stage, "arguments": key_fields(arguments)}',
        f"{KEYS}::test_stage_version_name_and_argument_names_are_in_the_key",
    ),
    Mutant(
        "the-adapter-is-not-in-a-models-key",
        "pipeline_lib/vlm/model_ref.py",
        '            "adapter": self.adapter,\n',
        "",
        f"{KEYS}::test_where_a_model_lies_and_what_it_is_called_is_not_in_the_key_but_what_it_is",
    ),
    Mutant(
        "the-folder-of-the-images-is-in-the-key",
        "pipeline_lib/config/base.py",
        'apart = {"table", "images", "split_lists", ',
        'apart = {"table", "split_lists", ',
        f"{KEYS}::test_a_field_changes_the_keys_of_its_stages_and_no_others[data.images]",
    ),
    Mutant(
        "the-engine-is-never-in-the-key",
        "pipeline_lib/methods/self_improve/recipe.py",
        'exclude={"engine"} if self.engine == "transformers" else set()',
        'exclude={"engine"}',
        f"{KEYS}::test_a_field_changes_the_keys_of_its_stages_and_no_others[generation.engine]",
    ),
)

PUBLISHING = (
    Mutant(
        "the-manifest-comes-first",
        "pipeline_lib/store/store.py",
        """                for file in files:
                    self.files.put(self.path(address, name, file), attempt.folder / file)
                self._check_arrived(address, manifest)
                published = self._create_manifest(address, manifest)
""",
        """                published = self._create_manifest(address, manifest)
                for file in files:
                    self.files.put(self.path(address, name, file), attempt.folder / file)
                self._check_arrived(address, manifest)
""",
        f"{STORE}::test_a_store_that_takes_no_more_bytes_shows_nothing_and_says_so",
    ),
    Mutant(
        "the-last-of-two-runs-wins",
        "pipeline_lib/store/local_files.py",
        "os.link(temporary, path)  # atomic, and fails when the path exists",
        "os.replace(temporary, path)",
        f"{STORE}::test_publishing_replaces_a_damaged_artifact_and_keeps_a_sound_one[folder]",
    ),
    Mutant(
        "the-manifest-is-removed-last",
        "pipeline_lib/store/store.py",
        """        self.files.remove(self.path(address, "manifest.json"))
        if others:
            self.files.remove_folder(self.path(address))
""",
        """        if others:
            self.files.remove_folder(self.path(address))
        self.files.remove(self.path(address, "manifest.json"))
        if others:
            pass
""",
        f"{STORE}::test_retracting_removes_the_manifest_first_and_then_everything[folder]",
    ),
)

HITS = (
    Mutant(
        "a-truncated-file-is-a-hit",
        "pipeline_lib/store/store.py",
        "if sizes[name] != entry.size:",
        "if sizes[name] > entry.size:",
        f"{STORE}::test_a_missing_or_truncated_file_and_a_bad_manifest_are_misses_that_say_why[folder]",
    ),
    Mutant(
        "a-changed-table-is-read",
        "pipeline_lib/store/store.py",
        "if found[-1] == wanted:",
        "if found:",
        f"{STORE}::test_damage_of_the_same_size_is_seen_by_every_reader[folder]",
    ),
    Mutant(
        "prefects-cache-is-believed",
        "tasks/stage/decorator.py",
        "refresh_cache=not hit",
        "refresh_cache=False",
        f"{RESUME}::test_a_damaged_artifact_is_computed_again_and_nothing_else[swap-deleted]",
    ),
)

RESUMING = (
    Mutant(
        "the-oldest-checkpoint-is-taken",
        "pipeline_lib/train/checkpoints.py",
        "reversed(store.children(",
        "(store.children(",
        f"{CHECKPOINTS}::test_the_newest_two_are_kept_and_no_pickle_among_them",
    ),
    Mutant(
        "a-torn-checkpoint-counts-among-the-newest-two",
        "pipeline_lib/train/checkpoints.py",
        "for name in whole[:-KEPT]:",
        "for name in names[:-KEPT]:",
        f"{CHECKPOINTS}::test_damaged_checkpoints_do_not_push_valid_ones_out",
    ),
    Mutant(
        "training-begins-again",
        "pipeline_lib/train/trainer.py",
        "trainer.train(resume_from_checkpoint=str(resume) if resume else None)",
        "trainer.train()",
        f"{DPO}::test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one",
    ),
    Mutant(
        "sigterm-leaves-no-checkpoint",
        "pipeline_lib/train/trainer.py",
        "control.should_save = control.should_training_stop = True",
        "control.should_training_stop = True",
        f"{DPO}::test_sigterm_leaves_a_checkpoint_from_which_the_same_weights_come[2]",
    ),
    Mutant(
        "sigterm-in-the-last-step-is-forgotten",
        "pipeline_lib/train/trainer.py",
        "if progress.stopped:  #",
        "if progress.stopped and trainer.state.global_step < trainer.state.max_steps:  #",
        f"{DPO}::test_sigterm_leaves_a_checkpoint_from_which_the_same_weights_come[4]",
    ),
)

SHARD_ORDER = (
    Mutant(
        "shards-are-put-together-backwards",
        "pipeline_lib/store/shards.py",
        "pa.concat_tables(finished)",
        "pa.concat_tables(finished[::-1])",
        f"{SHARDS}::test_every_cut_gives_the_same_table[3]",
    ),
)

MERGES = (
    Mutant(
        "the-merged-adapter-is-not-rescaled-by-the-root",
        "pipeline_lib/methods/self_improve/merge.py",
        "shrink = math.sqrt((config.lora_alpha / config.r) / (trained.lora_alpha / trained.r))",
        "shrink = (config.lora_alpha / config.r) / (trained.lora_alpha / trained.r)",
        f"{MERGE}::test_the_merge_is_ties_on_each_factor[0.5-pair0-frequency]",
    ),
    Mutant(
        "ties-prunes-nothing",
        "pipeline_lib/methods/self_improve/merge.py",
        "density=merge.density",
        "density=1.0",
        f"{MERGE}::test_the_merge_is_ties_on_each_factor[0.5-pair0-frequency]",
    ),
)

JUDGING = (
    Mutant(
        "requests-in-flight-are-not-in-the-budget",
        "pipeline_lib/judges/budget.py",
        "self.spent + self.reserved + worst > self.limit",
        "self.spent + worst > self.limit",
        f"{JUDGE}::test_the_worst_case_of_requests_in_flight_is_set_aside",
    ),
    Mutant(
        "a-changed-verdict-is-believed",
        "pipeline_lib/methods/self_improve/verdict_cache.py",
        "entry is None or entry != self._sealed(entry) or",
        "entry is None or",
        f"{JUDGE}::test_a_damaged_verdict_is_asked_again_and_replaced[grade]",
    ),
    Mutant(
        "a-server-error-is-not-tried-again",
        "pipeline_lib/openai_server.py",
        "if status in (408, 409, 429) or status >= 500:",
        "if status in (408, 409, 429):",
        f"{JUDGE}::test_what_passes_is_tried_again[500]",
    ),
)

SCORES_AND_PAIRS = (
    Mutant(
        "a-score-on-an-edge-is-in-the-bin-above",
        "pipeline_lib/methods/self_improve/bins.py",
        'np.searchsorted(edges, scores, side="left")',
        'np.searchsorted(edges, scores, side="right")',
        f"{BINS}::test_ties_have_exact_bins",
    ),
    Mutant(
        "rejected-keeps-its-wrong-score",
        "pipeline_lib/methods/self_improve/swap.py",
        'answer_prefix(row["true_score"]) + row["rejected"]',
        'answer_prefix(row["wrong_score"]) + row["rejected"]',
        "tests/unit/methods/self_improve/test_swap_scores.py::test_only_the_score_of_the_rejected_answer_changes",
    ),
    Mutant(
        "the-wrong-score-is-one-too-far",
        "pipeline_lib/methods/self_improve/score_pairs.py",
        "abs(score - true_score) >= min_distance",
        "abs(score - true_score) > min_distance",
        f"{PAIRS}::test_the_wrong_score_is_far_enough_and_evenly_drawn[5-3]",
    ),
    Mutant(
        "score-tokens-may-merge-with-what-follows",
        "pipeline_lib/methods/self_improve/score_tokens.py",
        "[: common + 1] != row:",
        "[:common] != row[:common]:",
        "tests/unit/methods/self_improve/test_score_tokens.py::test_a_tokenizer_that_merges_the_score_with_its_neighbours_is_refused",
    ),
)

GARBAGE = (
    Mutant(
        "what-an-artifact-was-made-from-goes",
        "pipeline_lib/store/gc.py",
        "for address in references(manifest.arguments)} - asked",
        "for address in references(manifest.rows)} - asked",
        f"{GC}::test_nothing_that_a_run_was_made_from_goes[folder]",
    ),
    Mutant(
        "the-inputs-of-a-young-artifact-go",
        "pipeline_lib/store/gc.py",
        "reachable(store, [*pointed, *young])",
        "reachable(store, pointed)",
        f"{GC}::test_an_old_input_of_a_young_artifact_stays",
    ),
)

ENGINE_PROOFS = (
    Mutant(
        "an-adapter-that-is-not-applied-passes",
        "pipeline_lib/vlm/engine/checks.py",
        "if 2 * same > len(texts):",
        "if same > len(texts):",
        f"{ENGINE}::test_a_server_that_is_not_what_it_should_be_is_refused[adapter ignored]",
    ),
)

TOKENS = "tests/parity/test_micro_batches.py"
TRAINING_STEPS = (
    Mutant(
        "transformers-divides-by-the-micro-batches",
        "pipeline_lib/train/micro_batches.py",
        "loss_is_scaled_for_ga = True",
        "loss_is_scaled_for_ga = None",
        f"{TOKENS}::test_supervised_training_is_the_mean_over_tokens[qwen3-vl]",
    ),
    Mutant(
        "a-short-micro-batch-counts-as-a-whole-one",
        "pipeline_lib/train/micro_batches.py",
        "shares = amounts.double() / of_step.clamp(min=1)",
        "shares = (amounts > 0).double() / (amounts > 0).sum(0).clamp(min=1)",
        f"{TOKENS}::test_dpo_is_the_mean_over_pairs_and_its_likelihood_term_over_tokens[qwen3-vl-True-0.0]",
    ),
    Mutant(
        "equal-answers-are-trained-on",
        "tasks/self_improve/train_consistency.py",
        '"pairs": distinct_pairs(pairs)',
        '"pairs": pairs',
        "tests/unit/methods/self_improve/test_swap_scores.py"
        "::test_equal_answers_are_counted_by_the_stage_and_not_trained_on",
    ),
)

SAMPLED_GROUPS = (
    Mutant(
        "a-block-of-lines-sees-what-its-first-one-sees",
        "pipeline_lib/vlm/generate/attention.py",
        "lines.any(dim=(0, 1, 2))",
        "lines[:, :, :1].any(dim=(0, 1, 2))",
        f"{GRPO}::test_lines_attended_in_blocks_give_the_same",
    ),
    Mutant(
        "an-answer-has-the-advantage-of-another-image",
        "pipeline_lib/train/prefix_shared_grpo.py",
        "of_images[:, some].T.flatten()",
        "of_images[:, some].flatten()",
        f"{GRPO}::test_with[llava-interleave-passes]",
    ),
    Mutant(
        "each-step-draws-with-the-same-noise",
        "pipeline_lib/train/rollout.py",
        'json.dumps([step, unit["at"], place,',
        'json.dumps([unit["at"], place,',
        "tests/parity/test_grpo_sampling.py::test_each_answer_image_step_and_seed_has_noise_of_its_own",
    ),
)

CACHES = (
    Mutant(
        "verdicts-of-another-temperature-count",
        "pipeline_lib/methods/self_improve/verdict_cache.py",
        "settings = key_fields(config)",
        'settings = {"model": config.model}',
        "tests/unit/methods/self_improve/test_verdict_cache.py"
        "::test_a_setting_asks_the_judge_again_exactly_when_it_changes_the_key[temperature]",
    ),
    Mutant(
        "a-file-of-the-same-size-is-the-same-image",
        "pipeline_lib/data/sources.py",
        'return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"',
        'return f"{facts.st_size}"',
        "tests/unit/data/test_digests.py::test_an_image_replaced_by_one_of_the_same_size_is_another_one",
    ),
)

DRAWN_SPLITS = (
    Mutant(
        "drawn-splits-ignore-the-seed",
        "pipeline_lib/data/splits.py",
        'hashlib.sha256(f"{seed}:{group}".encode())',
        "hashlib.sha256(group.encode())",
        f"{SPLITS}::test_drawn_splits_stay_when_rows_are_added_and_change_with_the_seed",
    ),
)

TRUST = (
    Mutant(
        "intervals-resample-images-instead-of-groups",
        "pipeline_lib/metrics/intervals.py",
        "names, at = np.unique(groups, return_inverse=True)",
        "names, at = np.unique(np.arange(len(groups)), return_inverse=True)",
        "tests/unit/metrics/test_intervals.py::test_copies_of_an_image_in_its_group_do_not_narrow_the_interval",
    ),
    Mutant(
        "a-difference-is-shown-without-its-interval",
        "pipeline_lib/metrics/intervals.py",
        "if difference.low > 0:",
        "if difference.value > 0:",
        "tests/unit/metrics/test_intervals.py::test_a_difference_of_nothing_is_seldom_shown",
    ),
    Mutant(
        "new-images-are-predicted-with-the-fitted-values",
        "pipeline_lib/methods/self_improve/predictions.py",
        "return ReferenceValues(reference_values[reading].to_numpy(), reading)",
        'return ReferenceValues(reference_values["fitted"].to_numpy(), reading)',
        "tests/unit/methods/self_improve/test_evaluation.py"
        "::test_new_images_get_the_prediction_and_the_interval_of_the_evaluation",
    ),
    Mutant(
        "the-control-permutes-test-scores-too",
        "pipeline_lib/methods/self_improve/permute.py",
        '== "train")',
        '!= "")',
        "tests/unit/methods/self_improve/test_permute.py",
    ),
)

DAMAGE = (
    Mutant(
        "damage-on-the-way-is-damage-in-the-store",
        "pipeline_lib/store/store.py",
        "for second in (False, True):",
        "for second in (True,):",
        f"{STORE}::test_damage_on_the_way_is_not_damage_in_the_store[folder]",
    ),
    Mutant(
        "a-damaged-artifact-stays",
        "pipeline_lib/store/store.py",
        "if isinstance(present, Manifest) and present.attempt == manifest.attempt:",
        "if False:",
        f"{STORE}::test_damage_of_the_same_size_is_seen_by_every_reader[folder]",
    ),
    Mutant(
        "what-another-run-has-replaced-is-removed",
        "pipeline_lib/store/store.py",
        "if isinstance(present, Manifest) and present.attempt == manifest.attempt:",
        "if True:",
        f"{STORE}::test_a_damaged_artifact_that_another_run_has_replaced_meanwhile_stays[folder]",
    ),
    Mutant(
        "a-changed-manifest-is-believed",
        "pipeline_lib/store/manifest.py",
        'and fields["seal"] != _seal(fields):',
        "and False:",
        f"{STORE}::test_a_manifest_that_was_changed_anywhere_is_damaged[folder-host]",
    ),
    Mutant(
        "a-damaged-shard-ends-its-stage",
        "pipeline_lib/store/shards.py",
        "except LostArtifactError:",
        "except ZeroDivisionError:",
        SHARDS,
    ),
    Mutant(
        "a-lost-input-ends-the-run",
        "tasks/stage/decorator.py",
        "if lost in again or (store.root, lost) not in _called:",
        "if True:",
        "tests/unit/test_work.py::test_a_lost_input_is_computed_again_once",
    ),
)

DATA = (
    Mutant(
        "white-is-zero-is-black",
        "pipeline_lib/data/modes.py",
        "share = 1 - share",
        "share = share + 0",
        "tests/unit/data/test_modes.py::test_the_same_picture_is_the_same_in_every_format",
    ),
    Mutant(
        "a-negative-value-is-black",
        "pipeline_lib/data/modes.py",
        "if least < low or (high is not None and most > high):",
        "if high is not None and most > high:",
        "tests/unit/data/test_modes.py::test_pixels_without_a_rule_are_refused_with_what_they_are",
    ),
    Mutant(
        "a-comma-may-be-a-thousand-and-is-decimal",
        "pipeline_lib/data/frames.py",
        "if not commas or not (certain or any(not _THOUSANDS.fullmatch(value) for value in commas)):",
        "if not commas:",
        "tests/unit/data/test_frames.py::test_a_comma_that_may_mean_a_thousand_is_not_guessed",
    ),
    Mutant(
        "a-quote-that-is-never-closed-is-lost",
        "pipeline_lib/data/frames.py",
        "delimiter=separator, strict=True):",
        "delimiter=separator):",
        "tests/unit/data/test_frames.py::test_what_is_no_table_is_refused_in_one_sentence",
    ),
    Mutant(
        "copies-in-another-split-are-not-counted",
        "pipeline_lib/data/leaks.py",
        "if other != split]",
        "if other == split]",
        "tests/unit/checks/test_survey.py::test_copies_that_a_recipe_allows_are_no_problem_and_still_not_nothing",
    ),
    Mutant(
        "the-judge-is-checked-when-it-is-asked",
        "pipeline_lib/methods/self_improve/before_run.py",
        "if config.model is not None:",
        "if config.model == '':",
        "tests/flows/test_before_run.py::test_a_run_that_has_ended_needs_its_judge_no_more",
    ),
)

VOTES = "tests/unit/methods/evo_quality/test_votes.py"
FIDELITY = "tests/unit/methods/evo_quality/test_fidelity.py"
RATING_FIGURES = "tests/unit/methods/evo_quality/test_rating_figures.py"

VOTING = (
    Mutant(
        "a-vote-counts-for-the-place",
        "pipeline_lib/methods/evo_quality/votes.py",
        "if (index == 0) != one.swapped:",
        "if index == 0:",
        f"{VOTES}::test_votes_are_counted_for_the_images_and_not_for_their_places",
    ),
    Mutant(
        "all-pairs-are-asked-in-one-order",
        "pipeline_lib/methods/evo_quality/votes.py",
        '{seed}:order:{answer}", record["pair"]) < 0.5',
        '{seed}:order:{answer}", record["pair"]) < 0.0',
        f"{VOTES}::test_a_real_model_votes_the_same_in_any_batch",
    ),
    Mutant(
        "a-tie-is-a-vote-for-the-second",
        "pipeline_lib/methods/evo_quality/votes.py",
        "0.5 if first == second else float(first > second)",
        "float(first > second)",
        f"{VOTES}::test_labels",
    ),
    Mutant(
        "a-rating-out-of-range-is-read",
        "pipeline_lib/methods/evo_quality/answers.py",
        "return rating if LOWEST <= rating <= HIGHEST else None",
        "return min(max(rating, LOWEST), HIGHEST)",
        f"{FIDELITY}::test_a_rating_is_read_strictly",
    ),
    Mutant(
        "the-variance-is-biased",
        "pipeline_lib/methods/evo_quality/reward.py",
        "ratings.var(ddof=1)",
        "ratings.var()",
        f"{FIDELITY}::test_it_is_the_papers_formula",
    ),
    Mutant(
        "both-images-are-the-better-one",
        "pipeline_lib/methods/evo_quality/reward.py",
        "_fidelity(rating, means[0], scale, 1 - label)",
        "_fidelity(rating, means[0], scale, label)",
        f"{FIDELITY}::test_it_is_the_papers_formula",
    ),
    Mutant(
        "a-pair-without-label-is-trained-on",
        "pipeline_lib/methods/evo_quality/training.py",
        'votes.filter(pc.is_valid(votes["preference"]))',
        "votes",
        f"{RATING_FIGURES}::test_only_pairs_with_a_label_are_trained_on",
    ),
    Mutant(
        "a-gain-counts-without-its-control",
        "pipeline_lib/methods/evo_quality/controls.py",
        'beyond = shuffled["spread"] == 0 or change(_estimate(shuffled, "beyond")) == "raised"',
        "beyond = True",
        f"{RATING_FIGURES}::test_a_gain_counts_only_beyond_shuffled_votes",
    ),
)

MUTANTS = (
    *ATTENTION,
    *POSITIONS,
    *PREFIX_DECODING,
    *STORED_REFERENCE,
    *ARTIFACT_KEYS,
    *PUBLISHING,
    *HITS,
    *RESUMING,
    *SHARD_ORDER,
    *MERGES,
    *JUDGING,
    *SCORES_AND_PAIRS,
    *GARBAGE,
    *ENGINE_PROOFS,
    *TRAINING_STEPS,
    *SAMPLED_GROUPS,
    *CACHES,
    *DRAWN_SPLITS,
    *TRUST,
    *DAMAGE,
    *DATA,
    *VOTING,
)
