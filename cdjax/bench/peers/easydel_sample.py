"""EasyDeL's `generate`."""

import jax
import jax.numpy as jnp
import numpy as np
import serve
import with_easydel
from flax import nnx
from transformers import GenerationConfig


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape, model = request["shapes"], with_easydel.model(request)
    context = np.tile(serve.tokens(shape["vocab"], 1, shape["context"], seed=1), (shape["batch"], 1))
    prompts = jnp.asarray(np.concatenate([context, serve.tokens(shape["vocab"], shape["batch"], shape["prompt"])], 1))
    settings = GenerationConfig(
        max_new_tokens=shape["answer"],
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=-1,
        pad_token_id=0,
        bos_token_id=1,
    )

    graph, weights = nnx.split(model)

    @jax.jit  # by itself it would be traced anew at every call
    def generate(weights, prompts):
        return (
            nnx.merge(graph, weights)
            .generate(
                prompts,
                attention_mask=jnp.ones_like(prompts),
                generation_config=settings,
                prng_key=jax.random.PRNGKey(0),
            )
            .sequences
        )

    def work() -> dict[str, int]:
        with model.mesh:
            out = generate(weights, prompts).block_until_ready()
        assert out.shape[1] == prompts.shape[1] + shape["answer"]
        return {"peak_bytes": with_easydel.peak_bytes()}

    stage.run(work)


main()
