"""What runs beside the training job: supervisor, worker and the gate between them and a bubble.

Shares nothing with `hydro_hpc.primary` but the page.
"""
