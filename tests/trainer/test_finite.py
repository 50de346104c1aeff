"""trainer/finite.py: weights that broke are found, whole ones or a rank's part of them."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.errors import RequestError
from trainer.finite import first_not_finite, require_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_no_number_is_named(bad: float, dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 4)).to(dtype)
    require_finite(model, 7)
    with torch.no_grad():
        model[1].weight[3, 1] = bad
    with pytest.raises(RequestError, match=r"after step 7 the weight 1\.weight is no number"):
        require_finite(model, 7)
    model[1].weight.requires_grad = False  # nobody trains it
    assert first_not_finite(model) is None


def test_of_a_split_weight_a_rank_has_its_part() -> None:
    model = torch.nn.Linear(3, 2)
    model.weight.data = torch.empty(0)
    model.weight.ds_tensor = torch.tensor([1.0, math.nan])
    model.bias.ds_tensor = torch.empty(0)  # all of it is another rank's
    assert first_not_finite(model) == "weight"
