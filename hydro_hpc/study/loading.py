"""Loads a user's study file: the one `Study` in it, or one sentence on what is wrong."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import StudyError

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study

OF_STUDIES: Final = "hydro_study_"  # begins the names of their modules
_is_loading: ContextVar[bool] = ContextVar("hydro_is_loading", default=False)


class _RunReached(BaseException):
    """The study file called `run` while it was loaded: that study is the one meant.

    Not an Exception: the user's own `except Exception` must let it pass.
    """

    def __init__(self, study: Study) -> None:
        self.study = study


def stop_at(study: Study) -> None:
    """Called by `Study.run`: ends the import of a file that is only being loaded."""
    if _is_loading.get():
        raise _RunReached(study)


def load_study(path: Path | str) -> Study:
    """Imports a study file as a module that is not `__main__`, and returns its study.

    That is the one whose `run()` the file calls while imported, else the only one that it names.
    Its folder is put on `sys.path`, as for a script. Raises StudyError.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise StudyError(f"study file {path} does not exist; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"{OF_STUDIES}{file.stem}", file)
    if spec is None or spec.loader is None:
        raise StudyError(f"study file {path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickle look classes up there
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    token = _is_loading.set(True)
    try:
        spec.loader.exec_module(module)
    except _RunReached as reached:
        return reached.study
    except (Exception, SystemExit) as error:
        raise StudyError(_import_problem(file, error)) from error
    finally:
        _is_loading.reset(token)
    return _only_study(file, module)


def _only_study(file: Path, module: ModuleType) -> Study:
    from hydro_hpc.study.definition import Study

    names = {name: value for name, value in vars(module).items() if isinstance(value, Study)}
    studies = list({id(study): study for study in names.values()}.values())
    if not studies:
        raise StudyError(f"{file.name} defines no Study; add one: study = Study(...)")
    if len(studies) > 1:
        raise StudyError(
            f"{file.name} defines {len(studies)} studies ({', '.join(names)}); keep one per file"
        )
    return studies[0]


def _import_problem(file: Path, error: BaseException) -> str:
    """Returns the user's own error with his line, without a traceback."""
    where = f"{file.name}, line {_line(file, error)}"
    if isinstance(error, StudyError):
        return f"{where}: {error}"
    if isinstance(error, SyntaxError):
        return f"{where}: {type(error).__name__}: {error.msg}"
    return f"{where}: {type(error).__name__}: {error}"


def _line(file: Path, error: BaseException) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(file) and error.lineno:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 0 for f in reversed(frames) if f.filename == str(file)), 0)
