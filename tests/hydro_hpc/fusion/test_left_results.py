"""What a forward leaves in a list of the script's is what each model alone would leave there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion import ExecutorKind, bind
from tests.hydro_hpc.fusion.architectures import vectors

LOG: list[Tensor] = []


class LeavesResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(x)
        LOG.append(hidden.mean())
        return hidden  # type: ignore[no-any-return]


@pytest.mark.parametrize("executor", ExecutorKind)
def test_results_that_forward_leaves_with_the_script_are_those_of_each_model(
    executor: ExecutorKind,
) -> None:
    models = [LeavesResults().double() for _ in range(2)]
    bundle = bind(models, example=vectors(), executor=executor, choices=[])
    assert all(type(result) is Tensor for result in LOG)
    for _ in range(2):
        LOG.clear()
        output = bundle(torch.stack([vectors(), vectors()]))
        torch.testing.assert_close(torch.stack(LOG), output.flatten(1).mean(1))
    assert bundle.report.executor is ExecutorKind.LOOP
    LOG.clear()
