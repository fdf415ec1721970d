"""The target of a study: the model as its owner wrote it, with the optimizer as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydro_hpc.errors import StudyError
from hydro_hpc.study import alone
from hydro_hpc.study.optimizers import torch_optimizer

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study
    from hydro_hpc.study.space import Params


def target_training(study: Study, params: Params, seed: int) -> alone.Training:
    """Of a study without surrogate, the training of a trial itself."""
    params = target_params(study, params)
    model = study.build_target(params, seed)
    settings = study.optimizer_settings(params)
    optimizer = torch_optimizer(study.optimizer_name, model.parameters(), settings)
    return alone.Training(study, params, seed, model=model, optimizer=optimizer)


def target_epochs(study: Study) -> int:
    """The target's horizon, which is its surrogate's unless the study says another."""
    narrow = study.surrogate
    return study.epochs if narrow is None else narrow.target_epochs or study.epochs


def target_batch_size(study: Study, params: Params) -> int:
    """Of the target's horizon."""
    return study.batch_size_of(target_params(study, params))


def target_params(study: Study, params: Params) -> Params:
    """With the target's batch size, where the study says one."""
    batch_size = None if study.surrogate is None else study.surrogate.target_batch_size
    return params if batch_size is None else {**params, "batch_size": batch_size}


def require_batch(study: Study) -> None:
    """StudyError if the training data have less rows than the target's batch, which would train it
    for no step.
    """
    size = None if study.surrogate is None else study.surrogate.target_batch_size
    num_rows = len(study.data().train_x)
    if size is not None and size > num_rows:
        raise StudyError(
            f"Narrow(target_batch_size={size}): the study's data have {num_rows} rows to train, so "
            "the target cannot be verified with a batch of them; give it more data or a smaller "
            "batch, or transfer without --verify"
        )


def has_surrogate(study: Study) -> bool:
    return study.surrogate is not None
