"""The entry point that `import torch` runs in every process: does nothing unless a lane was lent.

An exception here would make the user's `import torch` fail, so nothing may leave `load`.
"""

from __future__ import annotations

import os


def load() -> None:
    """Hooks `torch.distributed` if the Slurm plugin lent lanes to this job step. Never raises."""
    if "HYDRO_PAGE_DIR" not in os.environ or os.environ.get("HYDRO_ROLE") != "lend":
        return
    try:
        from hydro_hpc.primary.hooks import install

        install()
    except Exception as error:
        import sys

        print(f"hydro: bubbles are not lent: {type(error).__name__}: {error}", file=sys.stderr)
