"""EasyDeL's distillation step, compiled and donated as its trainer does, without that trainer's loop around it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import serve
import with_easydel
from easydel.trainers.distillation_trainer._fn import distillation_step


def main() -> None:
    stage = serve.Stage()
    request = stage.request
    shape = request["shapes"]
    student, teacher = with_easydel.model(request), with_easydel.model(request)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-5, weight_decay=0.0))
    ids = serve.tokens(shape["vocab"], shape["batch"], shape["prompt"] + shape["completion"])
    kept = np.zeros(ids.shape, np.int32)
    kept[:, shape["prompt"] :] = 1
    batch = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.ones_like(ids), "completion_mask": jnp.asarray(kept)}
    step = jax.jit(
        functools.partial(
            distillation_step,
            learning_rate_fn=optax.constant_schedule(1e-5),
            temperature=1.0,
            alpha=1.0,
            logits_chunk_size=request["options"].get("chunk"),
        ),
        donate_argnums=(0,),
    )
    with student.mesh:
        state = student.to_state().init_tx(tx)
        of_teacher = teacher.to_state()

        def work() -> dict[str, int]:
            nonlocal state
            state, metrics = step(state, batch, of_teacher)
            float(metrics.loss)
            jax.block_until_ready(jax.tree.leaves(state.graphstate))
            return {"peak_bytes": with_easydel.peak_bytes()}

        work()  # it compiles for a fresh state, and again for an updated one
        stage.run(work)


main()
