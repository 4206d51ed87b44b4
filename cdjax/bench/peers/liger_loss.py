"""Liger's chunked loss: Jensen-Shannon with beta 0, its forward KL, from hidden states of both sides."""

import os

import serve
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    stage = serve.Stage()
    shape = stage.request["shapes"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    dtype = getattr(torch, stage.request["options"].get("dtype", "float32"))
    positions, embed, vocab = shape["batch"] * shape["length"], shape["embed"], shape["vocab"]
    make = torch.randn
    student, teacher = (make(positions, embed, dtype=dtype, device=DEVICE) for _ in range(2))
    into, of_teacher = (0.02 * make(vocab, embed, dtype=dtype, device=DEVICE) for _ in range(2))
    labels = torch.randint(0, vocab, (positions,), device=DEVICE)
    student.requires_grad_()
    into.requires_grad_()
    fused = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=256
    )

    def work() -> dict[str, int]:
        student.grad = into.grad = None
        loss = fused(student, into, teacher, of_teacher, labels)
        loss.backward()
        float(loss)
        return {"peak_bytes": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0}

    stage.run(work)


main()
