"""The factor on attention's logits, by value, at the target's width and at the surrogate's.

Right is, with heads of size d, a factor that falls as 1/d from one width to the other: it stays if
the size of heads stays. 1/sqrt(d), which is right at one width, is wrong between two. Queries and
keys that are divided by their norms take a root of that each.
"""

from __future__ import annotations

from dataclasses import dataclass

from hydro_hpc.surrogate.tracing.probe import Seen
from hydro_hpc.surrogate.tracing.products import ProductFinding, paired


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFinding(ProductFinding):
    """One attention at both widths."""

    @property
    def sentence(self) -> str:
        """What is wrong, where, and what to do."""
        target, narrow = self.target, self.narrow
        if not self.is_told:
            return (
                f"by what the attention in '{target.path}' multiplies its logits cannot be told: "
                "it must depend on the size of heads alone, and not on the width"
            )
        if target.size == narrow.size:
            return (
                f"the attention in '{target.path}' multiplies its logits by {target.factor:.4g} at "
                f"the target's width and by {narrow.factor:.4g} at the surrogate's, though its "
                f"heads have {target.size} values at both: let the factor depend on the size of "
                "heads alone"
            )
        return (
            f"the heads of the attention in '{target.path}' have {target.size} values in the "
            f"target and {narrow.size} in the surrogate, whose logits are multiplied by "
            f"{narrow.factor:.4g} where muP needs {self.expected:.4g}: keep the size of heads, as "
            f"heads = width // {target.size}, or multiply the logits by {target.size} / their "
            "size, which changes nothing in the target"
        )


def findings_of(wide: Seen, narrow: Seen) -> tuple[AttentionFinding, ...]:
    """Of each attention that was seen in a call of both models, right or not."""
    return tuple(
        AttentionFinding(target=one, narrow=other)
        for one, other in paired(wide.logits, narrow.logits)
    )
