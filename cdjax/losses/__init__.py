"""Losses, a file each, whose weighted sum a student learns by; loss.py has their base classes.

In: the states of both sides at every kept token, and targets. Out: the loss and its gradient. Losses over logits are
computed together, in tiles (fused.py), and losses over residual streams beside them (states.py).
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cdjax.errors import UserError
from cdjax.losses.loss import Term
from cdjax.model.spec import DecoderSpec
from cdjax.parts import Kinds
from cdjax.sampling.targets import TARGETS
from cdjax.sampling.targets.target import Target

LOSSES = Kinds(
    "loss",
    forward_kl="cdjax.losses.forward_kl:ForwardKL",
    reverse_kl="cdjax.losses.reverse_kl:ReverseKL",
    jsd="cdjax.losses.jsd:JSD",
    skewed_kl="cdjax.losses.skewed_kl:SkewedKL",
    cross_entropy="cdjax.losses.cross_entropy:CrossEntropy",
    policy_gradient="cdjax.losses.policy_gradient:PolicyGradient",
    hidden_mse="cdjax.losses.hidden_mse:HiddenMSE",
    hidden_cosine="cdjax.losses.hidden_cosine:HiddenCosine",
    hidden_l1="cdjax.losses.hidden_l1:HiddenL1",
)
Loss = Annotated[Any, LOSSES]


def unmet(losses: Sequence[Term], targets: Target) -> Iterator[str]:
    """Yields a sentence for each loss that needs what the targets do not give."""
    kinds: dict[str, Any] = dict(TARGETS)
    for number, loss in enumerate(losses):
        if loss.needs and not loss.needs & targets.gives:
            others = [name for name, kind in kinds.items() if loss.needs & kind.gives]
            yield (
                f"losses.{number}: {loss.kind} needs {_either(loss.needs)}, and targets.kind={targets.kind!r} gives "
                f"{_either(targets.gives)}; " + (f"use targets.kind={_either(others)}" if others else "no targets do")
            )


def misfits(losses: Sequence[Term], student: DecoderSpec, teacher: DecoderSpec) -> Iterator[str]:
    """Yields a sentence for each requirement of the losses that models of these shapes do not meet."""
    for number, loss in enumerate(losses):
        yield from (f"losses.{number}.{problem}" for problem in loss.misfits(student, teacher))


def check(losses: Sequence[Term], targets: Target) -> None:
    """Raises UserError for losses that cannot be computed from these targets."""
    if problems := list(unmet(losses, targets)):
        raise UserError("; ".join(problems))


def reads_teacher(losses: Sequence[Term], targets: Target) -> bool:
    """Whether an update reads the kept answers with the teacher itself."""
    return "states" in targets.gives and any(loss.needs for loss in losses)


def named(losses: Sequence[Term], family: type = Term) -> dict[str, Any]:
    """The losses of a family by kind; the second of a kind has the name "jsd 2"."""
    kinds = [loss.kind for loss in losses]
    counts = [kinds[: number + 1].count(kind) for number, kind in enumerate(kinds)]
    names = [kind if count == 1 else f"{kind} {count}" for kind, count in zip(kinds, counts, strict=True)]
    return {name: loss for name, loss in zip(names, losses, strict=True) if isinstance(loss, family)}


def _either(words: Sequence[str] | frozenset[str]) -> str:
    return " or ".join(sorted(words) if isinstance(words, frozenset) else words) or "nothing"
