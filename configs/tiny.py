"""Does the whole pipeline run on this machine? Every stage of the demo, on a random model of 100,000 weights.

The scores mean nothing (a random model knows no verbs); the held-out KL falls, since a student can always learn to
imitate. Under two minutes on two cores.

    cdjax run configs/tiny.py
"""

from cdjax import config


def get_config() -> config.Experiment:
    return config.Experiment(
        name="tiny",
        model="tiny:0",
        operations=(
            config.Operation(
                task="past_tense",
                inputs=config.Inputs(pool=True, written=16, limit=96),
                context=config.Context(shots=4),
                keep=config.Keep(filters=(config.NonEmpty(),)),  # a random model hardly ever ends its answer
            ),
        ),
        template=config.Template(question="{input} ->", answer=" {output}\n"),
        training=config.Training(
            sampling=config.Sampling(temperature=1.0, batch=32),
            targets=config.TopK(8),
            optim=config.Optim(lr=3e-3, schedule="cosine", warmup=4),
            update=config.Update(epochs=8, batch=32, checkpoint_every=8),
        ),
        baselines=(config.gradient_descent(lrs=(1e-3,), epochs=4, every=2, batch=4),),
        limits=config.Limits(teacher_prompt=256, student_prompt=64, completion=8),
        score=config.Score(
            examples=16,
            validation=8,
            measures=(config.HeldOutKL(16), config.Forgetting(4)),
        ),
    )
