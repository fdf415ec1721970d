"""Scripts that measure, each with its result file in `results/`. Run them from the checkout's
root.
"""
