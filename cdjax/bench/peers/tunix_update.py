"""Tunix's distillation trainer with its logit strategy: its own training loop, full-vocabulary forward KL."""

import jax
import jax.numpy as jnp
import optax
import serve
import with_tunix
from tunix.distillation import distillation_trainer, strategies


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape, remat = request["shapes"], request["options"].get("remat", "NONE")
    student, teacher = with_tunix.model(request, remat), with_tunix.model(request)
    ids = serve.tokens(shape["vocab"], shape["batch"], shape["prompt"] + shape["completion"])
    example = distillation_trainer.TrainingInput(input_tokens=ids, input_mask=jnp.ones(ids.shape, bool))

    def forward(model, input_tokens, input_mask):
        length = input_tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
        seen = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (len(input_tokens), length, length))
        logits, _ = model(input_tokens, positions, None, seen)
        return logits[:, shape["prompt"] - 1 : -1]

    def labels(input_tokens, input_mask):
        return jax.nn.one_hot(input_tokens[:, shape["prompt"] :], shape["vocab"])

    trainer = distillation_trainer.DistillationTrainer(
        student,
        teacher,
        strategies.LogitStrategy(forward, forward, labels, temperature=1.0, alpha=1.0),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5, weight_decay=0.0)),
        distillation_trainer.TrainingConfig(eval_every_n_steps=10_000, max_steps=10_000, pbar_description=None),
    )

    def examples():
        while True:
            stage.go()
            yield example
            jax.block_until_ready(jax.tree.leaves(trainer.model))
            stage.done(peak_bytes=with_tunix.peak_bytes())

    trainer.train(examples())


main()
