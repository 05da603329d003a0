"""Prior preservation: a class keeps what the image model knew of it while a subject is learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vgen.data.mixture import PRIOR
from vgen.methods._objectives import Denoising


@dataclass(slots=True, kw_only=True)
class PriorPreservation(Denoising):
    """The mean error of the subject's clips, and ``prior_weight`` times that of the prior's (Ruiz et al.
    2022, eq. 2). A batch without clips of the prior has the first alone."""

    prior_weight: float = 1.0

    def reduced(self, errors: Tensor, fields: Mapping[str, Any]) -> dict[str, Tensor]:
        if PRIOR not in fields:
            return {"loss": errors.mean()}
        known = fields[PRIOR].to(errors.device)
        subject, prior = errors[~known].mean(), errors[known].mean()
        return {"loss": subject + self.prior_weight * prior, "subject": subject, PRIOR: prior}


def check_prior_weight(weight: float) -> None:
    """Raises ValueError for a weight that means nothing."""
    if not 0 <= weight < math.inf:
        raise ValueError(
            f"prior_weight must be 0 or more, got {weight}; 1 is the paper's, 0 preserves no prior"
        )
