"""Hydro: hyperparameter tuning inside the bubbles of pipeline-parallel training jobs."""
