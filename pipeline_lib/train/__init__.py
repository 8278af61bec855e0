"""Train one LoRA adapter from one description (`TrainingJob`): DPO or SFT, checkpoints, one or several processes.

A pair's prefix is computed once for both answers. `answer_logps` gives log-probabilities of any number of answers.
May import vlm, data, config, store and the rooms before them. It does not know a method.
"""
