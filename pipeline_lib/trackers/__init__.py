"""Experiment trackers (MLflow, Weights & Biases, TensorBoard): curves of trainings and figures of stages.

May import errors, addresses and config. What is sent is figures, labels and addresses: nothing of an image, and no
name of one (docs/tracking.md). A tracker that is away costs warnings, never a run, and changes no result.
"""
