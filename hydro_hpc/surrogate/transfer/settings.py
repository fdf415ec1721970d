"""The target's settings as texts: for people and programs, for PyTorch, for DeepSpeed.

The target trains as its owner wrote it, so all of its parameters are one group.
"""

from __future__ import annotations

import json
import math
import numbers
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydro_hpc.atomic_write import write_text
from hydro_hpc.errors import StudyError
from hydro_hpc.study.optimizers import OPTIMIZERS, OptimizerName
from hydro_hpc.surrogate.rules import default_decay
from hydro_hpc.surrogate.transfer.standing import Candidate
from hydro_hpc.surrogate.transfer.target import has_surrogate, target_epochs, target_params

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.space import Params

CLIPPING: Final = {
    "clip_norm": "torch.nn.utils.clip_grad_norm_(model.parameters(), {limit!r})",
    "clip_value": "torch.nn.utils.clip_grad_value_(model.parameters(), {limit!r})",
}
FILES: Final = ("settings.json", "settings.py", "deepspeed.json")
EXACT: Final = (bool, int, float, str, type(None))  # what a text of Python says again
MODULE: Final = '''"""{title}

Written by `hydro transfer`.
"""

import torch

MODEL = {model}  # arguments of the study's model, for the target
BATCH_SIZE = {batch_size!r}
EPOCHS = {epochs!r}
SETTINGS = {arguments}  # of the optimizer


def param_groups(model):
    """One: the target trains as its owner wrote it, without a factor of any parameter."""
    return [{{"params": list(model.parameters()), **SETTINGS}}]


def make_optimizer(model):
    return torch.optim.{optimizer}(param_groups(model), **SETTINGS)


def clip_gradients(model):
    """Between backward and step."""
    {clipping}
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """`value` is what the trial reached with its own model, `target_value` what the target did."""

    study: str
    identity: str  # of the study's description
    trial: int
    value: float
    target_value: float | None
    is_surrogate: bool
    seed: int
    optimizer: OptimizerName
    arguments: Params  # of the optimizer
    model: Params
    batch_size: int
    epochs: int
    clip_name: str | None
    clip_limit: float | None  # None: off


def settings_of(study: Study, candidate: Candidate, target_value: float | None) -> TargetSettings:
    params = target_params(study, candidate.params)
    limit = study.clip_limit(params)
    values = {**study.constants, **params}
    return TargetSettings(
        study=study.name,
        identity=study.description.identity,
        trial=candidate.number,
        value=candidate.value,
        target_value=target_value,
        is_surrogate=has_surrogate(study),
        seed=candidate.seed,
        optimizer=study.optimizer_name,
        arguments=_with_decay(study.optimizer_name, study.optimizer_settings(params)),
        model={name: plain(values[name]) for name in sorted(study.split.model)},
        batch_size=study.batch_size_of(params),
        epochs=target_epochs(study),
        clip_name=None if limit == math.inf else study.clip_name,
        clip_limit=None if limit == math.inf else limit,
    )


def require_place(name: str, identity: str, directory: Path) -> None:
    """StudyError if it holds files of these names that are others', or of another study."""
    found = _written_before(directory)
    names = [name for name in FILES if (directory / name).exists()]
    if found is None and names:
        raise StudyError(
            f"{directory} holds {' and '.join(names)} that hydro transfer did not write; give "
            "another folder with --out"
        )
    if found is not None and not _is_of(found, name, identity):
        other = found["study"]
        whose = f"study {other}" if other != name else f"another study of the name {name}"
        raise StudyError(
            f"{directory} holds the settings of {whose}; give another folder with --out, or remove "
            "them first"
        )


def write_settings(settings: TargetSettings, directory: Path) -> None:
    """StudyError if it cannot be written, or as `require_place`."""
    texts = as_json(settings), as_module(settings), as_deepspeed(settings)
    require_place(settings.study, settings.identity, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in zip(FILES, texts, strict=True):
            write_text(directory / name, text)
    except OSError as error:
        raise StudyError(
            f"{directory} cannot be written ({error.strerror}); give another with --out"
        ) from None


def remove_settings(name: str, identity: str, directory: Path) -> None:
    """Those of this study that were written there before, if any were. StudyError if they cannot be
    removed.
    """
    found = _written_before(directory)
    if found is None or not _is_of(found, name, identity):
        return
    try:
        for name in reversed(FILES):  # the first says whose they are
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(
            f"{directory} holds settings that have failed on the target, and they cannot be "
            f"removed ({error.strerror}); do not use them"
        ) from None


def _written_before(directory: Path) -> dict[str, Any] | None:
    """What the file says that is written first, None if that is none of ours."""
    try:
        found = json.loads((directory / FILES[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(found, dict) and found.keys() >= {
        "schema",
        *TargetSettings.__dataclass_fields__,
    }
    return found if is_ours else None


def _is_of(found: dict[str, Any], name: str, identity: str) -> bool:
    return (found["study"], found["identity"]) == (name, identity)


def as_json(settings: TargetSettings) -> str:
    """What JSON has no form of is given as its text."""
    facts = {"schema": 1, **asdict(settings), "model": _of_json(settings.model)}
    return json.dumps(facts, indent=1) + "\n"


def as_module(settings: TargetSettings) -> str:
    """Of Python, with a function that makes the optimizer of any model."""
    clip = "pass"
    if settings.clip_name is not None:
        clip = CLIPPING[settings.clip_name].format(limit=settings.clip_limit)
    return MODULE.format(
        title=_title(settings),
        model=_text({n: v for n, v in settings.model.items() if has_text(v)}),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        optimizer=_torch_name(settings),
        arguments=_text(settings.arguments),
        clipping=clip,
    )


def as_deepspeed(settings: TargetSettings) -> str:
    """A DeepSpeed configuration. DeepSpeed does not clip by value (see `left_out`), and clips the
    norm to 1 unless it is told not to, by 0.
    """
    parameters: dict[str, Any] = dict(settings.arguments)
    if settings.optimizer in ("adam", "adamw"):
        # torch's own, which was tuned; and its "Adam" would decay weights as AdamW does.
        parameters["torch_adam"] = True
        parameters["adam_w_mode"] = settings.optimizer == "adamw"
    config: dict[str, Any] = {
        "train_batch_size": settings.batch_size,
        "gradient_clipping": settings.clip_limit if settings.clip_name == "clip_norm" else 0.0,
        "optimizer": {"type": _torch_name(settings), "params": parameters},
    }
    return json.dumps(config, indent=1) + "\n"


def left_out(settings: TargetSettings) -> list[str]:
    """Sentences on what the files do not say."""
    found = []
    if settings.clip_name == "clip_value":
        found.append(
            f"deepspeed.json does not clip: DeepSpeed has no setting for clip_value="
            f"{settings.clip_limit:g}; clip in your own loop"
        )
    for name, value in settings.model.items():
        if not has_text(value):
            found.append(f"settings.py leaves out {name}: a {type(value).__name__} has no text")
    return found


def _torch_name(settings: TargetSettings) -> str:
    return OPTIMIZERS[settings.optimizer].TORCH.__name__


def _with_decay(optimizer: OptimizerName, settings: Params) -> Params:
    """Said also where the study leaves it to torch, whose AdamW decays and whose Adam does not."""
    said = {"weight_decay": default_decay(optimizer), **settings}
    return {name: plain(value) for name, value in said.items()}


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's own, whose texts make them again."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {name: plain(each) for name, each in value.items()}
    return value


def has_text(value: Any) -> bool:
    """Says whether a text of Python makes it again."""
    if type(value) in (tuple, list):
        return all(map(has_text, value))
    if type(value) is dict:
        return all(map(has_text, (*value, *value.values())))
    return type(value) in EXACT


def _of_json(value: Any) -> Any:
    if type(value) in (tuple, list):
        return [*map(_of_json, value)]
    if type(value) is dict:
        return {str(name): _of_json(each) for name, each in value.items()}
    is_form = type(value) in EXACT and not (type(value) is float and not math.isfinite(value))
    return value if is_form else repr(value)


def _text(value: Any) -> str:
    """Of Python, for what `has_text`; the text of an infinite number is none by itself."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(n)}: {_text(v)}' for n, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _title(settings: TargetSettings) -> str:
    where = "its surrogate" if settings.is_surrogate else "its model"
    text = f"The best of study {settings.study}: trial {settings.trial}, {settings.value:.6g}"
    if settings.target_value is None:
        return f"{text} on {where}."
    return f"{text} on {where}, {settings.target_value:.6g} on the target."
