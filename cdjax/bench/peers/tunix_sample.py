"""Tunix's sampler, with the cache and the prompt length fitted to the work."""

import serve
import with_tunix
from tunix.generate import sampler as tunix_sampler


class Words:
    """A tokenizer whose texts are numbers separated by spaces."""

    def encode(self, text: str, **rest) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids, **rest) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0  # none

    def eos_id(self) -> int:
        return 2

    def pad_id(self) -> int:
        return 0


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape = request["shapes"]
    length = shape["context"] + shape["prompt"]
    sampler = tunix_sampler.Sampler(
        with_tunix.model(request),
        Words(),
        tunix_sampler.CacheConfig(
            cache_size=length + shape["answer"],
            num_layers=shape["layers"],
            num_kv_heads=shape["kv_heads"],
            head_dim=shape["head_dim"],
        ),
    )
    context = serve.tokens(shape["vocab"], shape["context"], seed=1)
    texts = [
        " ".join(map(str, [*context, *prompt]))
        for prompt in serve.tokens(shape["vocab"], shape["batch"], shape["prompt"])
    ]

    def work() -> dict[str, int]:
        out = sampler(
            texts,
            max_generation_steps=shape["answer"],
            max_prompt_length=length,
            eos_tokens=[-1],
            temperature=1.0,
            top_p=1.0,
        )
        assert all(len(tokens) == shape["answer"] for tokens in out.tokens)
        return {"peak_bytes": with_tunix.peak_bytes()}

    stage.run(work)


main()
