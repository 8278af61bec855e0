"""Train one LoRA adapter from one description (`TrainingJob`): DPO, SFT or GRPO, checkpoints, processes.

A prefix is computed once for all answers behind it. `answer_logps` gives log-probabilities of any number of answers.
May import vlm, data, config, store and the rooms before them. It does not know a method.
"""
