"""Plain torch on transformers' modules: full-vocabulary forward KL on the completion's positions, AdamW."""

import serve
import torch
import torch.nn.functional as F
import with_torch


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape = request["shapes"]
    student, teacher = with_torch.model(request), with_torch.model(request).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    ids = with_torch.ids(shape["vocab"], shape["batch"], shape["prompt"] + shape["completion"])
    kept = shape["completion"] + 1  # the position before the completion predicts its first token

    def work() -> dict[str, int]:
        with torch.no_grad():
            target = F.log_softmax(teacher(ids, logits_to_keep=kept).logits[:, :-1].float(), -1)
        logprobs = F.log_softmax(student(ids, logits_to_keep=kept).logits[:, :-1].float(), -1)
        loss = F.kl_div(logprobs, target, reduction="sum", log_target=True) / logprobs[..., 0].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss)
        return {"peak_bytes": with_torch.peak_bytes()}

    stage.run(work)


main()
