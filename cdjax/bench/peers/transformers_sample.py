"""transformers' `generate`, plain or with the context read once and its cache repeated for every row."""

import serve
import torch
import with_torch
from transformers import DynamicCache


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape, model = request["shapes"], with_torch.model(request).eval()
    rows, vocab = shape["batch"], shape["vocab"]
    context = with_torch.ids(vocab, 1, shape["context"], seed=1)
    prompts = torch.cat([context.repeat(rows, 1), with_torch.ids(vocab, rows, shape["prompt"])], 1)
    settings = {"max_new_tokens": shape["answer"], "do_sample": True, "top_k": 0, "temperature": 1.0, "use_cache": True}

    def work() -> dict[str, int]:
        reused = {}
        if request["options"].get("reuse"):
            cache = DynamicCache(config=model.config)
            model(context, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(rows)
            reused["past_key_values"] = cache
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings, **reused)
        assert out.shape[1] == prompts.shape[1] + shape["answer"]
        with_torch.wait()
        return {"peak_bytes": with_torch.peak_bytes()}

    with torch.inference_mode():
        stage.run(work)


main()
