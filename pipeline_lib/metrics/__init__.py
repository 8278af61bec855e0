"""Figures from tables alone: PLCC, SRCC, RMSE and the agreement of two judges, with bootstrap intervals.

No model is asked here.
May import every room before it: train, vlm, data and those below them.
"""
