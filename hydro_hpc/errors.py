"""Every error that Hydro shows a person: one sentence with the thing, what is wrong, what to do.

Errors cross processes, so each can be pickled: all their arguments are positional.
"""

from __future__ import annotations

from typing import Final

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_TRY_LATER: Final = 75  # EX_TEMPFAIL: no bubble to run in, now
EXIT_NOT_RUNNABLE: Final = 126  # of a command, as shells say it
EXIT_NOT_FOUND: Final = 127


class HydroError(Exception):
    """Base of all errors that a person can mend; `exit_code` is what the command ends with."""

    exit_code: int = EXIT_FAILED


class ConfigError(HydroError):
    """A configuration file or an option says something that cannot be done."""

    exit_code = EXIT_USAGE


class PageError(HydroError):
    """A shared page is missing, of another version, of another boot, or torn."""


class LaneError(HydroError):
    """A device's lane is not lent, not ours, or gone: try again elsewhere or later."""

    exit_code = EXIT_TRY_LATER


class SlurmError(HydroError):
    """Slurm refused, did not answer, or answered something that cannot be read."""


class FusionError(HydroError):
    """These models cannot be trained as one bundle."""


class ShrinkError(HydroError):
    """No surrogate of this model can be made, or none that agrees with it."""


class CommandError(HydroError):
    """`hydro-trial --exec` was given no command, or one that is not there."""

    def __init__(self, sentence: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(sentence, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return str(self.args[0])


class StudyError(HydroError):
    """A study's definition is wrong; `exit_code` says that it is the caller's to mend."""

    exit_code = EXIT_USAGE


class ScheduleError(HydroError):
    """A pipeline schedule cannot be read, or cannot run to its end."""
